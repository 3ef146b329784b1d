mock_provider "aws" {
  source = "../../testing"
}

variables {
  sidecart_image             = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/sidecart:1.0.0"
  application_image          = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/reports:7"
  vpc_id                     = "vpc-0a1b2c3d"
  private_subnet_ids         = ["subnet-0a", "subnet-0b"]
  endpoint_security_group_id = "sg-0e"
  database_security_group_id = "sg-0db"
  db_host                    = "orders-replica.abc.eu-central-1.rds.amazonaws.com"
  db_name                    = "orders"
  secret_arn                 = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:reader-AbCdEf"
  secret_kms_key_arn         = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000"
}

run "application_reads_by_localhost" {
  command = apply

  assert {
    condition     = [for container in jsondecode(aws_ecs_task_definition.this.container_definitions) : container.name] == ["application", "sidecart"]
    error_message = "both are in one task"
  }
  assert {
    condition = { for item in jsondecode(aws_ecs_task_definition.this.container_definitions)[0].environment : item.name => item.value } == {
      PGHOST = "localhost", PGPORT = "6432", PGDATABASE = "orders", PGUSER = "reports"
    }
    error_message = "the application knows localhost, and no password"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].dependsOn == [{ containerName = "sidecart", condition = "HEALTHY" }]
    error_message = "it waits for SideCart"
  }
  assert {
    condition     = { for item in jsondecode(aws_ecs_task_definition.this.container_definitions)[1].environment : item.name => item.value }["SIDECART_LISTEN_HOST"] == "127.0.0.1"
    error_message = "nobody else can reach SideCart"
  }
  assert {
    condition     = !aws_ecs_service.this.network_configuration[0].assign_public_ip
    error_message = "the task has no public address"
  }
}

run "database_accepts_the_task" {
  command = apply

  assert {
    condition     = aws_ecs_service.this.network_configuration[0].security_groups == toset([module.network.sidecart_security_group_id])
    error_message = "the task is in the group that the database accepts"
  }
  assert {
    condition     = module.network.database_security_group_id == "sg-0db"
    error_message = "the rule goes into the database's own group"
  }
}

run "execution_role_reads_one_secret" {
  command = apply

  assert {
    condition = flatten([
      for statement in jsondecode(aws_iam_role_policy.sidecart.policy).Statement : statement.Resource if statement.Sid == "Secrets"
    ]) == [var.secret_arn]
    error_message = "the task's execution role reads the role's secret and no other"
  }
}
