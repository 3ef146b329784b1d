data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

locals {
  family  = "postgres${split(".", var.engine_version)[0]}"
  managed = !var.read_replica
  exports = ["postgresql", "upgrade"]

  parameters = merge(
    { ssl_min_protocol_version = "TLSv1.2" },
    { for name, value in var.parameters : name => value if !contains(["rds.force_ssl", "password_encryption"], name) },
  )
}

resource "aws_db_subnet_group" "this" {
  name_prefix = "${var.name}-"
  description = "Private subnets of ${var.name}"
  subnet_ids  = var.subnet_ids
  tags        = var.tags
}

resource "aws_db_parameter_group" "this" {
  name_prefix = "${var.name}-"
  description = "Parameters of ${var.name}: TLS is required"
  family      = local.family
  tags        = var.tags

  parameter {
    name         = "rds.force_ssl"
    value        = "1"
    apply_method = "pending-reboot"
  }

  parameter {
    name         = "password_encryption"
    value        = "scram-sha-256"
    apply_method = "pending-reboot"
  }

  dynamic "parameter" {
    for_each = local.parameters

    content {
      name         = parameter.key
      value        = parameter.value
      apply_method = "pending-reboot" # right for static and for dynamic parameters
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

# RDS would make these itself, unencrypted and for ever.
resource "aws_cloudwatch_log_group" "this" {
  for_each = toset(local.exports)

  name              = "/aws/rds/instance/${var.name}/${each.key}"
  kms_key_id        = var.kms_key_arn
  retention_in_days = var.log_retention_days
  tags              = var.tags
}

resource "aws_cloudwatch_log_group" "replica" {
  for_each = var.read_replica ? toset(local.exports) : []

  name              = "/aws/rds/instance/${var.name}-replica/${each.key}"
  kms_key_id        = var.kms_key_arn
  retention_in_days = var.log_retention_days
  tags              = var.tags
}

resource "aws_iam_role" "monitoring" {
  name_prefix = "${substr(var.name, 0, 20)}-monitoring-"
  tags        = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "monitoring.rds.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "monitoring" {
  role       = aws_iam_role.monitoring.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"
}

resource "aws_db_instance" "this" {
  #checkov:skip=CKV2_AWS_30:log_statement would write ALTER ROLE ... PASSWORD, and the constants of every statement, into the log
  identifier     = var.name
  engine         = "postgres"
  engine_version = var.engine_version
  instance_class = var.instance_class
  db_name        = var.database_name
  port           = var.port

  username                      = var.master_username
  manage_master_user_password   = local.managed ? true : null
  master_user_secret_kms_key_id = local.managed ? var.kms_key_arn : null
  password_wo                   = var.master_password == "" ? null : var.master_password
  password_wo_version           = local.managed ? null : var.master_password_version

  storage_type          = "gp3"
  allocated_storage     = var.allocated_storage
  max_allocated_storage = var.max_allocated_storage
  storage_encrypted     = true
  kms_key_id            = var.kms_key_arn

  db_subnet_group_name                = aws_db_subnet_group.this.name
  vpc_security_group_ids              = var.security_group_ids
  publicly_accessible                 = false
  parameter_group_name                = aws_db_parameter_group.this.name
  ca_cert_identifier                  = "rds-ca-rsa2048-g1"
  iam_database_authentication_enabled = true
  multi_az                            = var.multi_az

  backup_retention_period  = var.backup_retention_days
  backup_window            = "02:00-03:00"
  maintenance_window       = "sun:03:30-sun:04:30"
  copy_tags_to_snapshot    = true
  delete_automated_backups = false
  deletion_protection      = var.deletion_protection
  skip_final_snapshot      = false
  # With the day and time at which the instance was made: a second one of this name leaves a snapshot, too.
  final_snapshot_identifier = "${var.name}-final-${formatdate("YYYYMMDD-hhmmss", timestamp())}"

  auto_minor_version_upgrade            = true
  performance_insights_enabled          = true
  performance_insights_kms_key_id       = var.kms_key_arn
  performance_insights_retention_period = var.performance_insights_retention_days
  monitoring_interval                   = 60
  monitoring_role_arn                   = aws_iam_role.monitoring.arn
  enabled_cloudwatch_logs_exports       = local.exports
  tags                                  = var.tags

  # The secret first: if it cannot be written, no database has a password that nobody knows.
  depends_on = [
    aws_cloudwatch_log_group.this,
    aws_iam_role_policy_attachment.monitoring,
    aws_secretsmanager_secret_version.master,
  ]

  lifecycle {
    ignore_changes = [final_snapshot_identifier]
  }
}

# What a replica cannot write, nobody can make it write: SideCart's fourth layer, and the strongest. It takes from the
# primary what is not said here: storage, its encryption and key, subnets, master user.
resource "aws_db_instance" "replica" {
  #checkov:skip=CKV2_AWS_30:log_statement would write the constants of every statement into the log
  #checkov:skip=CKV_AWS_133:the backups are the primary's; this instance can be made again at any time
  #checkov:skip=CKV_AWS_157:the standby is the primary's; SideCart can be pointed at the primary while the replica is made again
  #checkov:skip=CKV_AWS_293:holds nothing that the primary, which is protected, does not hold
  count = var.read_replica ? 1 : 0

  identifier          = "${var.name}-replica"
  replicate_source_db = aws_db_instance.this.identifier
  instance_class      = var.instance_class
  port                = var.port

  storage_type          = "gp3"
  max_allocated_storage = var.max_allocated_storage
  storage_encrypted     = true

  vpc_security_group_ids              = var.security_group_ids
  publicly_accessible                 = false
  parameter_group_name                = aws_db_parameter_group.this.name
  ca_cert_identifier                  = "rds-ca-rsa2048-g1"
  iam_database_authentication_enabled = true
  multi_az                            = false

  maintenance_window    = "sun:05:00-sun:06:00"
  copy_tags_to_snapshot = true
  deletion_protection   = false
  skip_final_snapshot   = true

  auto_minor_version_upgrade            = true
  performance_insights_enabled          = true
  performance_insights_kms_key_id       = var.kms_key_arn
  performance_insights_retention_period = var.performance_insights_retention_days
  monitoring_interval                   = 60
  monitoring_role_arn                   = aws_iam_role.monitoring.arn
  enabled_cloudwatch_logs_exports       = local.exports
  tags                                  = var.tags

  depends_on = [aws_cloudwatch_log_group.replica]
}

module "readonly_password" {
  source = "../password"

  password_version = var.readonly_password_version
}
