output "endpoint" {
  description = "Host name for clients in the VPC; the port is 6432."
  value       = module.sidecart.endpoint
}

output "developer_endpoint" {
  description = "Host name for the developer; null without developer_cidr."
  value       = module.sidecart.developer_endpoint
}

output "clients_security_group_id" {
  description = "Put applications into this group."
  value       = module.network.clients_security_group_id
}

output "database" {
  description = "Name of the database."
  value       = module.rds.database_name
}

output "readonly_username" {
  description = "Name of the read-only role, with which clients log in."
  value       = module.rds.readonly_username
}

output "readonly_password" {
  description = "Its password."
  value       = module.rds.readonly_password
  sensitive   = true
}

output "readonly_role_command" {
  description = "The command that makes the read-only role, for apply_role = false."
  value       = module.readonly_role.command
}
