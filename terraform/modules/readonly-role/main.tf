data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.id

  upstream_host = coalesce(var.upstream_host, var.primary_host)
  password      = var.password == null ? module.password.password : var.password
}

# Made in any case: while Terraform plans, it is often unknown yet whether a password is given.
module "password" {
  source = "../password"

  password_version = var.password_version
}

# --- the secret, in RDS's own layout ----------------------------------------------------------------------------------

resource "aws_secretsmanager_secret" "this" {
  #checkov:skip=CKV2_AWS_57:the password changes by password_version: the role has to change with it, which the one-shot task does
  name_prefix = "${var.name}/${var.username}-"
  description = "Read-only role ${var.username} of SideCart ${var.name}"
  kms_key_id  = var.kms_key_arn
  tags        = var.tags
}

resource "aws_secretsmanager_secret_version" "this" {
  secret_id = aws_secretsmanager_secret.this.id
  secret_string = jsonencode({
    engine   = "postgres"
    host     = local.upstream_host
    port     = var.port
    username = var.username
    password = local.password
    dbname   = var.databases[0]
  })
}

# --- logging in by IAM ------------------------------------------------------------------------------------------------

resource "aws_iam_policy" "connect" {
  name_prefix = "${var.name}-connect-"
  description = "Log in to the database as ${var.username} by IAM"
  tags        = var.tags

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = "rds-db:connect"
      Resource = [for id in var.resource_ids : "arn:${local.partition}:rds-db:${local.region}:${local.account}:dbuser:${id}/${var.username}"]
    }]
  })
}
