# Whoever uses the secret waits until the role is made.

output "secret_arn" {
  description = "ARN of the role's secret, in RDS's own layout: engine, host, port, username, password, dbname."
  value       = aws_secretsmanager_secret.this.arn
  depends_on  = [terraform_data.apply, aws_secretsmanager_secret_version.this]
}

output "secret_version_id" {
  description = "Version of the secret: another password is another version."
  value       = aws_secretsmanager_secret_version.this.version_id
  depends_on  = [terraform_data.apply]
}

output "username" {
  description = "Name of the read-only role."
  value       = var.username
}

output "password" {
  description = "Password of the read-only role. It stands in the state, too: keep the state in an encrypted backend that few may read."
  value       = local.password
  sensitive   = true
}

output "connect_policy_arn" {
  description = "ARN of the policy that allows to log in as the role by IAM (rds-db:connect)."
  value       = aws_iam_policy.connect.arn
}

output "task_definition_arn" {
  description = "ARN of the one-shot task."
  value       = aws_ecs_task_definition.this.arn
}

output "command" {
  description = "The command that makes the role, for apply_role = false; run it where the AWS CLI is."
  value       = join(" ", concat([for name, value in local.script_environment : "${name}='${value}'"], ["${path.module}/scripts/apply-role.sh"]))
}
