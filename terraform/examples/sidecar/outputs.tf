output "service_name" {
  description = "Name of the ECS service: the application, with SideCart in each of its tasks."
  value       = aws_ecs_service.this.name
}

output "sidecart_log_group" {
  description = "SideCart's log group."
  value       = module.sidecart.log_group_name
}
