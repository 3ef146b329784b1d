mock_provider "aws" {
  source = "../../testing"
}

variables {
  name               = "shop"
  subnet_ids         = ["subnet-0a", "subnet-0b"]
  security_group_ids = ["sg-0db"]
  kms_key_arn        = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000"
  master_password    = ""
}

run "instance_is_private_and_encrypted" {
  command = plan

  assert {
    condition     = !aws_db_instance.this.publicly_accessible
    error_message = "the instance must have no public address"
  }
  assert {
    condition     = aws_db_instance.this.storage_encrypted && aws_db_instance.this.kms_key_id == var.kms_key_arn
    error_message = "storage is encrypted with the given key"
  }
  assert {
    condition     = aws_db_instance.this.performance_insights_enabled && aws_db_instance.this.performance_insights_kms_key_id == var.kms_key_arn
    error_message = "Performance Insights are on, and encrypted with the given key"
  }
  assert {
    condition     = alltrue([for group in aws_cloudwatch_log_group.this : group.kms_key_id == var.kms_key_arn])
    error_message = "logs are encrypted with the given key"
  }
  assert {
    condition     = aws_db_instance.this.vpc_security_group_ids == toset(["sg-0db"]) && aws_db_subnet_group.this.subnet_ids == toset(["subnet-0a", "subnet-0b"])
    error_message = "the instance lies in the given subnets, behind the given group"
  }
}

run "tls_is_forced" {
  command = plan

  assert {
    condition     = { for parameter in aws_db_parameter_group.this.parameter : parameter.name => parameter.value }["rds.force_ssl"] == "1"
    error_message = "rds.force_ssl has to be 1"
  }
  assert {
    condition     = { for parameter in aws_db_parameter_group.this.parameter : parameter.name => parameter.value }["ssl_min_protocol_version"] == "TLSv1.2"
    error_message = "TLS 1.2 is the oldest"
  }
  assert {
    condition     = aws_db_parameter_group.this.family == "postgres17"
    error_message = "the family follows from the version"
  }
}

run "instance_survives" {
  command = plan

  assert {
    condition     = aws_db_instance.this.multi_az && aws_db_instance.this.deletion_protection
    error_message = "a standby, and no deletion by accident"
  }
  assert {
    condition     = aws_db_instance.this.backup_retention_period >= 7 && !aws_db_instance.this.skip_final_snapshot && !aws_db_instance.this.delete_automated_backups
    error_message = "backups are kept, and a last one is made"
  }
}

run "master_password_is_managed_by_rds" {
  command = plan

  assert {
    condition     = aws_db_instance.this.manage_master_user_password && aws_db_instance.this.master_user_secret_kms_key_id == var.kms_key_arn
    error_message = "RDS keeps the master user's password, encrypted with the given key"
  }
  assert {
    condition     = aws_db_instance.this.password == null && length(aws_secretsmanager_secret.master) == 0
    error_message = "Terraform knows no master password"
  }
  assert {
    condition     = aws_db_instance.this.iam_database_authentication_enabled
    error_message = "IAM authentication is on"
  }
  assert {
    condition     = length(aws_db_instance.replica) == 0
    error_message = "no replica unless it is wanted"
  }
}

run "outputs_name_the_primary" {
  command = apply

  override_resource {
    target = aws_db_instance.this
    values = {
      address            = "shop.abc.eu-central-1.rds.amazonaws.com"
      resource_id        = "db-PRIMARY"
      master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:rds!db-x" }]
    }
  }

  assert {
    condition     = output.endpoint == "shop.abc.eu-central-1.rds.amazonaws.com" && output.primary_endpoint == output.endpoint
    error_message = "without a replica SideCart reads from the primary"
  }
  assert {
    condition     = output.readonly_username == "sidecart_reader" && length(output.readonly_password) == 40
    error_message = "the read-only role has a name and a password"
  }
  assert {
    condition     = output.master_secret_arn == "arn:aws:secretsmanager:eu-central-1:111122223333:secret:rds!db-x"
    error_message = "the master user's secret is the one of RDS"
  }
}

run "replica_is_as_private_and_becomes_the_upstream" {
  command = apply

  variables {
    read_replica    = true
    master_password = "passwordpasswordpassword"
  }

  override_resource {
    target = aws_db_instance.this
    values = { address = "shop.abc.eu-central-1.rds.amazonaws.com", resource_id = "db-PRIMARY" }
  }
  override_resource {
    target = aws_db_instance.replica
    values = { address = "shop-replica.abc.eu-central-1.rds.amazonaws.com", resource_id = "db-REPLICA" }
  }

  assert {
    condition     = can(regex("^${var.name}-final-[0-9]{8}-[0-9]{6}$", aws_db_instance.this.final_snapshot_identifier))
    error_message = "a second database of this name leaves a last snapshot, too"
  }
  assert {
    condition = (
      !aws_db_instance.replica[0].publicly_accessible &&
      aws_db_instance.replica[0].storage_encrypted &&
      aws_db_instance.replica[0].iam_database_authentication_enabled &&
      aws_db_instance.replica[0].parameter_group_name == aws_db_parameter_group.this.name &&
      aws_db_instance.replica[0].vpc_security_group_ids == toset(["sg-0db"]) &&
      aws_db_instance.replica[0].replicate_source_db == "shop"
    )
    error_message = "the replica is as private, encrypted and strict about TLS as the primary"
  }
  assert {
    condition     = output.endpoint == "shop-replica.abc.eu-central-1.rds.amazonaws.com"
    error_message = "the replica is the recommended upstream"
  }
  assert {
    condition     = output.primary_endpoint == "shop.abc.eu-central-1.rds.amazonaws.com"
    error_message = "the role is made on the primary"
  }
  assert {
    condition     = output.resource_ids == ["db-PRIMARY", "db-REPLICA"]
    error_message = "a policy can name both"
  }
  assert {
    condition     = aws_db_instance.this.manage_master_user_password == null && length(aws_secretsmanager_secret.master) == 1
    error_message = "RDS manages no password of an instance that has a replica"
  }
  assert {
    condition     = aws_secretsmanager_secret_version.master[0].secret_string_wo == null && aws_db_instance.this.password_wo == null
    error_message = "the master password is in no state"
  }
}

# --- what is refused --------------------------------------------------------------------------------------------------

run "no_key_is_refused" {
  command = plan
  variables {
    kms_key_arn = ""
  }
  expect_failures = [var.kms_key_arn]
}

run "tls_off_is_refused" {
  command = plan
  variables {
    parameters = { "rds.force_ssl" = "0" }
  }
  expect_failures = [var.parameters]
}

run "old_tls_is_refused" {
  command = plan
  variables {
    parameters = { "ssl_min_protocol_version" = "TLSv1" }
  }
  expect_failures = [var.parameters]
}

run "md5_passwords_are_refused" {
  command = plan
  variables {
    parameters = { "password_encryption" = "md5" }
  }
  expect_failures = [var.parameters]
}

run "no_backups_are_refused" {
  command = plan
  variables {
    backup_retention_days = 0
  }
  expect_failures = [var.backup_retention_days]
}

run "password_that_rds_would_not_take_is_refused" {
  command = plan
  variables {
    read_replica    = true
    master_password = "too/short"
  }
  expect_failures = [var.master_password]
}

run "password_beside_a_managed_one_is_refused" {
  command = plan
  variables {
    master_password = "passwordpasswordpassword"
  }
  expect_failures = [var.master_password]
}

run "default_group_is_refused" {
  command = plan
  variables {
    security_group_ids = []
  }
  expect_failures = [var.security_group_ids]
}

run "version_that_sidecart_does_not_know_is_refused" {
  command = plan
  variables {
    engine_version = "12.9"
  }
  expect_failures = [var.engine_version]
}
