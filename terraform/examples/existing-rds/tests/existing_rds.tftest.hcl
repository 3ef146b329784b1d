mock_provider "aws" {
  source = "../../testing"
}

override_data {
  target = data.aws_db_instance.primary
  values = {
    engine              = "postgres"
    address             = "orders.abc.eu-central-1.rds.amazonaws.com"
    port                = 5432
    resource_id         = "db-PRIMARY"
    storage_encrypted   = true
    publicly_accessible = false
    master_user_secret  = [{ secret_arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:rds!db-x" }]
  }
}

variables {
  image                      = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/sidecart:1.0.0"
  vpc_id                     = "vpc-0a1b2c3d"
  private_subnet_ids         = ["subnet-0a", "subnet-0b"]
  route_table_ids            = ["rtb-0a"]
  db_instance_identifier     = "orders"
  database_security_group_id = "sg-0db"
  databases                  = ["orders"]
  apply_role                 = false # no AWS to run it
}

run "database_gets_one_rule" {
  command = apply

  assert {
    condition     = module.network.database_security_group_id == "sg-0db"
    error_message = "the rule goes into the database's own group"
  }
  assert {
    condition     = { for item in module.sidecart.container_definition.environment : item.name => item.value }["DB_HOST"] == "orders.abc.eu-central-1.rds.amazonaws.com"
    error_message = "SideCart reads from the database"
  }
}

run "replica_becomes_the_upstream" {
  command = apply

  variables {
    replica_identifier = "orders-replica"
  }

  override_data {
    target = data.aws_db_instance.replica
    values = {
      address             = "orders-replica.abc.eu-central-1.rds.amazonaws.com"
      port                = 5432
      resource_id         = "db-REPLICA"
      replicate_source_db = "orders"
      storage_encrypted   = true
      publicly_accessible = false
    }
  }

  assert {
    condition     = { for item in module.sidecart.container_definition.environment : item.name => item.value }["DB_HOST"] == "orders-replica.abc.eu-central-1.rds.amazonaws.com"
    error_message = "SideCart reads from the replica"
  }
  assert {
    condition     = strcontains(module.readonly_role.command, "DATABASES='orders'")
    error_message = "the role is made in the database"
  }
}

run "unencrypted_instance_is_refused" {
  command = plan

  override_data {
    target = data.aws_db_instance.primary
    values = {
      engine              = "postgres"
      address             = "orders.abc.eu-central-1.rds.amazonaws.com"
      port                = 5432
      resource_id         = "db-PRIMARY"
      storage_encrypted   = false
      publicly_accessible = false
    }
  }

  expect_failures = [data.aws_db_instance.primary]
}

run "public_instance_is_refused" {
  command = plan

  override_data {
    target = data.aws_db_instance.primary
    values = {
      engine              = "postgres"
      address             = "orders.abc.eu-central-1.rds.amazonaws.com"
      port                = 5432
      resource_id         = "db-PRIMARY"
      storage_encrypted   = true
      publicly_accessible = true
    }
  }

  expect_failures = [data.aws_db_instance.primary]
}
