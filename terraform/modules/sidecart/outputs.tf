output "endpoint" {
  description = "Host name for clients in the VPC, with port 6432; localhost for a sidecar."
  value       = local.sidecar ? "localhost" : aws_lb.this["internal"].dns_name
}

output "developer_endpoint" {
  description = "Host name for the developer, with port 6432; null without a developer's load balancer."
  value       = try(aws_lb.this["developer"].dns_name, null)
}

output "port" {
  description = "Port for clients."
  value       = local.port
}

output "container_definition" {
  description = "The container, for the container_definitions of a task of your own (with jsonencode). Meant for form = sidecar."
  value       = local.container
}

output "container_depends_on" {
  description = "For dependsOn of the application's container: it starts when SideCart works, and ends before it."
  value       = [{ containerName = "sidecart", condition = "HEALTHY" }]
}

output "execution_policy_json" {
  description = "Policy that the execution role of a task with the sidecar needs: SideCart's image, secrets and log, and no others."
  value       = jsonencode(local.execution_policy)
}

output "task_policy_arns" {
  description = "Policies that the task role of a task with the sidecar needs: rds-db:connect with upstream_auth = iam, else none."
  value       = compact([var.connect_policy_arn])
}

output "log_group_name" {
  description = "SideCart's log group."
  value       = aws_cloudwatch_log_group.this.name
}

output "metrics_namespace" {
  description = "Namespace of the metrics that the alarms watch."
  value       = local.namespace
}

output "alarm_arns" {
  description = "ARNs of the alarms, by what they watch."
  value       = { for what, alarm in aws_cloudwatch_metric_alarm.this : what => alarm.arn }
}

output "service_name" {
  description = "Name of the ECS service; null in the other forms."
  value       = try(aws_ecs_service.this[0].name, null)
}

output "task_role_arn" {
  description = "ARN of the service's task role; null in the other forms."
  value       = try(aws_iam_role.task[0].arn, null)
}

output "autoscaling_group_name" {
  description = "Name of the group of instances; null in the other forms."
  value       = try(aws_autoscaling_group.this[0].name, null)
}

output "user_data" {
  description = "The script that sets an instance up; empty in the other forms. It holds no secret."
  value       = local.user_data
}
