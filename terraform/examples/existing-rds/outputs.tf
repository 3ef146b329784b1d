output "endpoint" {
  description = "Host name for clients in the VPC; the port is 6432."
  value       = module.sidecart.endpoint
}

output "clients_security_group_id" {
  description = "Put applications into this group."
  value       = module.network.clients_security_group_id
}

output "secret_arn" {
  description = "Secret of the read-only role, with whose name and password clients log in."
  value       = module.readonly_role.secret_arn
}

output "readonly_role_command" {
  description = "The command that makes the read-only role, for apply_role = false."
  value       = module.readonly_role.command
}
