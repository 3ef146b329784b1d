output "endpoint" {
  description = "Host name that SideCart connects to: the replica's where there is one, else the primary's. Without the port."
  value       = var.read_replica ? aws_db_instance.replica[0].address : aws_db_instance.this.address
}

output "primary_endpoint" {
  description = "Host name of the instance that takes writes: where the read-only role is made."
  value       = aws_db_instance.this.address
}

output "port" {
  description = "Port of both."
  value       = var.port
}

output "database_name" {
  description = "Name of the first database."
  value       = aws_db_instance.this.db_name
}

output "resource_ids" {
  description = "Resource ids of the instance and the replica, which a policy for rds-db:connect names."
  value       = concat([aws_db_instance.this.resource_id], aws_db_instance.replica[*].resource_id)
}

output "master_username" {
  description = "Name of the master user."
  value       = var.master_username
}

output "master_secret_arn" {
  description = "ARN of the master user's secret: JSON with username and password."
  value       = local.managed ? aws_db_instance.this.master_user_secret[0].secret_arn : aws_secretsmanager_secret_version.master[0].arn
}

output "readonly_username" {
  description = "Name of the read-only role."
  value       = var.readonly_username
}

output "readonly_password" {
  description = "Password of the read-only role. It stands in the state, too: keep the state in an encrypted backend that few may read."
  value       = module.readonly_password.password
  sensitive   = true
}
