mock_provider "aws" {
  source = "../../testing"
}

run "password_is_long_and_plain" {
  command = apply

  assert {
    condition     = data.aws_secretsmanager_random_password.this.password_length >= 40
    error_message = "the password has to be long"
  }
  assert {
    condition     = data.aws_secretsmanager_random_password.this.exclude_punctuation
    error_message = "the password has to go into URLs and shells as it is"
  }
  assert {
    condition     = output.password == "passwordpasswordpasswordpasswordpassword"
    error_message = "the password has to be the one that AWS made"
  }
}

run "password_stays_though_aws_makes_another" {
  command = apply

  override_data {
    target = data.aws_secretsmanager_random_password.this
    values = { random_password = "AnotherOne" }
  }

  assert {
    condition     = output.password == "passwordpasswordpasswordpasswordpassword"
    error_message = "an apply without a new version must not change the password"
  }
}

run "another_version_makes_another_password" {
  command = apply

  variables {
    password_version = 2
  }

  override_data {
    target = data.aws_secretsmanager_random_password.this
    values = { random_password = "AnotherOne" }
  }

  assert {
    condition     = output.password == "AnotherOne"
    error_message = "a new version has to make a new password"
  }
}

run "half_a_version_is_refused" {
  command = plan
  variables {
    password_version = 1.5
  }
  expect_failures = [var.password_version]
}
