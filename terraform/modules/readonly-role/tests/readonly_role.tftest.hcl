mock_provider "aws" {
  source = "../../testing"
}

variables {
  name               = "shop"
  kms_key_arn        = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000"
  primary_host       = "shop.abc.eu-central-1.rds.amazonaws.com"
  upstream_host      = "shop-replica.abc.eu-central-1.rds.amazonaws.com"
  databases          = ["app", "billing"]
  resource_ids       = ["db-PRIMARY", "db-REPLICA"]
  admin_secret_arn   = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:rds!db-x"
  image              = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/sidecart:1.0.0"
  cluster_arn        = "arn:aws:ecs:eu-central-1:111122223333:cluster/shop"
  subnet_ids         = ["subnet-0a", "subnet-0b"]
  security_group_ids = ["sg-05c"]
  apply_role         = false # no AWS to run it
}

run "secret_has_the_layout_of_rds" {
  command = apply

  assert {
    condition = jsondecode(aws_secretsmanager_secret_version.this.secret_string) == {
      engine   = "postgres"
      host     = "shop-replica.abc.eu-central-1.rds.amazonaws.com"
      port     = 5432
      username = "sidecart_reader"
      password = "passwordpasswordpasswordpasswordpassword"
      dbname   = "app"
    }
    error_message = "the secret has RDS's fields, and names the upstream"
  }
  assert {
    condition     = aws_secretsmanager_secret.this.kms_key_id == var.kms_key_arn
    error_message = "the secret is encrypted with the given key"
  }
}

run "given_password_is_used" {
  command = apply

  variables {
    password = "givengivengivengivengiven"
  }

  assert {
    condition     = jsondecode(aws_secretsmanager_secret_version.this.secret_string).password == "givengivengivengivengiven"
    error_message = "the given password goes into the secret"
  }
}

run "iam_policy_names_role_and_instances" {
  command = plan

  assert {
    condition = jsondecode(aws_iam_policy.connect.policy).Statement == [{
      Effect = "Allow"
      Action = "rds-db:connect"
      Resource = [
        "arn:aws:rds-db:eu-central-1:111122223333:dbuser:db-PRIMARY/sidecart_reader",
        "arn:aws:rds-db:eu-central-1:111122223333:dbuser:db-REPLICA/sidecart_reader",
      ]
    }]
    error_message = "one action, one user, the named instances"
  }
}

run "task_is_confined_and_holds_no_secret" {
  command = apply

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].entryPoint == ["sidecart"] && jsondecode(aws_ecs_task_definition.this.container_definitions)[0].command == ["role", "--apply"]
    error_message = "the task runs sidecart role --apply"
  }
  assert {
    condition = (
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].user == "65532:65532" &&
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].readonlyRootFilesystem &&
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].linuxParameters.capabilities.drop == ["ALL"]
    )
    error_message = "without root, without capabilities, on a read-only root"
  }
  assert {
    condition     = aws_ecs_task_definition.this.task_role_arn == null
    error_message = "the task calls nothing of AWS"
  }
  assert {
    condition     = !strcontains(aws_ecs_task_definition.this.container_definitions, "passwordpassword")
    error_message = "no password stands in the task definition"
  }
  assert {
    condition = { for item in jsondecode(aws_ecs_task_definition.this.container_definitions)[0].secrets : item.name => item.valueFrom } == {
      DB_ADMIN_PASSWORD    = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:rds!db-x:password::"
      DB_ADMIN_USERNAME    = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:rds!db-x:username::"
      DB_READONLY_PASSWORD = "${aws_secretsmanager_secret.this.arn}:password::${aws_secretsmanager_secret_version.this.version_id}"
    }
    error_message = "ECS takes the passwords from Secrets Manager"
  }
  assert {
    condition = { for item in jsondecode(aws_ecs_task_definition.this.container_definitions)[0].environment : item.name => item.value } == {
      DB_HOST              = "shop.abc.eu-central-1.rds.amazonaws.com"
      DB_NAME              = "app"
      DB_PORT              = "5432"
      DB_READONLY_USERNAME = "sidecart_reader"
      DB_SSLMODE           = "verify-full"
    }
    error_message = "the role is made on the primary, over TLS that is verified"
  }
}

run "public_is_revoked_when_that_is_wanted" {
  command = apply

  variables {
    revoke_public = true
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].command == ["role", "--apply", "--revoke-public"]
    error_message = "the task takes it from PUBLIC"
  }
}

run "execution_role_reads_two_secrets" {
  command = apply

  assert {
    condition = toset(flatten([
      for statement in jsondecode(aws_iam_role_policy.execution.policy).Statement : statement.Resource if statement.Action == "secretsmanager:GetSecretValue"
    ])) == toset([var.admin_secret_arn, aws_secretsmanager_secret.this.arn])
    error_message = "it may read the two secrets and no other"
  }
  assert {
    condition = [
      for statement in jsondecode(aws_iam_role_policy.execution.policy).Statement : statement.Sid if contains(flatten([statement.Resource]), "*")
    ] == ["Registry"]
    error_message = "nothing but the registry's token is for everything"
  }
  assert {
    condition = flatten([
      for statement in jsondecode(aws_iam_role_policy.execution.policy).Statement : statement.Resource if statement.Sid == "Image"
    ]) == ["arn:aws:ecr:eu-central-1:111122223333:repository/sidecart"]
    error_message = "it may pull the one image"
  }
}

run "command_is_there_for_a_run_by_hand" {
  command = apply

  assert {
    condition     = strcontains(output.command, "DATABASES='app billing'") && endswith(output.command, "/scripts/apply-role.sh")
    error_message = "the command names the databases and the script"
  }
  assert {
    condition     = length(terraform_data.apply) == 0
    error_message = "apply_role = false runs nothing"
  }
}

run "task_runs_while_terraform_applies" {
  command = plan

  variables {
    apply_role = true
  }

  assert {
    condition     = length(terraform_data.apply) == 1
    error_message = "the task is run by default"
  }
}

run "longest_name_fits" {
  command = plan

  variables {
    name = "abcdefghijklmnopqrstuvwxyz-12345"
  }

  assert {
    condition     = length(aws_iam_role.execution.name_prefix) <= 38
    error_message = "AWS takes 38 characters"
  }
}

# --- what is refused --------------------------------------------------------------------------------------------------

run "tls_off_is_refused" {
  command = plan
  variables {
    sslmode = "disable"
  }
  expect_failures = [var.sslmode]
}

run "tls_that_verifies_nothing_is_refused" {
  command = plan
  variables {
    sslmode = "require"
  }
  expect_failures = [var.sslmode]
}

run "policy_for_every_database_is_refused" {
  command = plan
  variables {
    resource_ids = ["*"]
  }
  expect_failures = [var.resource_ids]
}

run "short_password_is_refused" {
  command = plan
  variables {
    password = "secret"
  }
  expect_failures = [var.password]
}

run "latest_image_is_refused" {
  command = plan
  variables {
    image = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/sidecart:latest"
  }
  expect_failures = [var.image]
}

run "name_of_a_database_that_a_shell_would_read_is_refused" {
  command = plan
  variables {
    databases = ["app; rm -rf /"]
  }
  expect_failures = [var.databases]
}
