mock_provider "aws" {
  source = "../../testing"
}

variables {
  name = "shop"
}

run "key_rotates_and_is_not_open" {
  command = plan

  assert {
    condition     = aws_kms_key.this.enable_key_rotation
    error_message = "the key has to rotate"
  }
  assert {
    condition = alltrue([
      for statement in jsondecode(aws_kms_key.this.policy).Statement :
      statement.Principal != "*" && try(statement.Principal.AWS, "") != "*"
    ])
    error_message = "no statement may be for everybody"
  }
  assert {
    condition     = aws_kms_key.this.deletion_window_in_days == 30
    error_message = "a deletion has to be revocable for as long as AWS lets it"
  }
}

run "name_with_a_blank_is_refused" {
  command = plan
  variables {
    name = "my shop"
  }
  expect_failures = [var.name]
}
