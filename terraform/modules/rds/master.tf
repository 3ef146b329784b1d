# The master user's password where RDS does not manage it: an ephemeral variable and write-only arguments, so that neither
# the state nor a plan holds it.

resource "aws_secretsmanager_secret" "master" {
  #checkov:skip=CKV2_AWS_57:raise master_password_version to change it; only the role's one-shot task uses it
  count = local.managed ? 0 : 1

  name_prefix = "${var.name}/master-"
  description = "Master user of the database ${var.name}"
  kms_key_id  = var.kms_key_arn
  tags        = var.tags
}

resource "aws_secretsmanager_secret_version" "master" {
  count = local.managed ? 0 : 1

  secret_id = aws_secretsmanager_secret.master[0].id
  # Without a password there is nothing to keep, and Secrets Manager says so, before the database is made.
  secret_string_wo = var.master_password == "" ? null : jsonencode({
    engine   = "postgres"
    username = var.master_username
    password = var.master_password
  })
  secret_string_wo_version = var.master_password_version
}
