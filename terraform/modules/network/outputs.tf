output "vpc_id" {
  description = "The VPC."
  value       = local.vpc_id
}

output "private_subnet_ids" {
  description = "Subnets of the database, of SideCart and of its internal load balancer."
  value       = local.private_subnet_ids
}

output "public_subnet_ids" {
  description = "Subnets of the developer's load balancer; empty without one."
  value       = local.public_subnet_ids

  # AWS makes no load balancer with a public address in a VPC that has no way to the internet yet.
  depends_on = [aws_route.internet, aws_route_table_association.public]
}

output "clients_security_group_id" {
  description = "Put applications into this group: its members may connect to SideCart."
  value       = aws_security_group.clients.id
}

output "load_balancer_security_group_id" {
  description = "Group of the internal load balancer."
  value       = aws_security_group.load_balancer.id
}

output "developer_security_group_id" {
  description = "Group of the developer's load balancer, which one address at most may reach."
  value       = aws_security_group.developer.id
}

output "sidecart_security_group_id" {
  description = "SideCart's group, and that of tasks that have it as a sidecar."
  value       = aws_security_group.sidecart.id

  # Who starts a task in this group needs its ways out, not the group alone.
  depends_on = [
    aws_route_table_association.private,
    aws_vpc_endpoint.interface,
    aws_vpc_endpoint.s3,
    aws_vpc_security_group_egress_rule.sidecart_database,
    aws_vpc_security_group_egress_rule.sidecart_endpoints,
    aws_vpc_security_group_egress_rule.sidecart_s3,
    aws_vpc_security_group_ingress_rule.database,
    aws_vpc_security_group_ingress_rule.endpoints,
  ]
}

output "database_security_group_id" {
  description = "The database's group, which accepts SideCart's alone."
  value       = local.database_security_group_id
}

output "database_port" {
  description = "Port that the rules open."
  value       = var.database_port
}
