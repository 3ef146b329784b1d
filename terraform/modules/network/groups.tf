# Who may reach whom. Rules name groups; the only addresses are those of client_cidrs (private networks), the one of
# developer_cidr, and, for endpoints in an existing VPC, that VPC's own. No group has a rule that it does not need: Terraform takes AWS's own "all traffic out" away.
#
#   clients ──────────► load balancer ──► sidecart ──► database
#      └──────────────────────────────────►  │
#   developer (/32) ──► developer's   ──►     └──────► endpoints, S3
#                       load balancer

locals {
  port         = 6432
  metrics_port = 9632

  client_groups = merge(
    { clients = aws_security_group.clients.id },
    { for id in var.client_security_group_ids : id => id },
  )
  doors = {
    load_balancer = aws_security_group.load_balancer.id
    developer     = aws_security_group.developer.id
  }
  database_security_group_id = (
    var.database_security_group_id == null ? aws_security_group.database[0].id : var.database_security_group_id
  )
  endpoint_groups = merge(
    var.create_endpoints ? { made = aws_security_group.endpoints[0].id } : {},
    var.endpoint_security_group_id == null ? {} : { existing = var.endpoint_security_group_id },
  )
}

resource "aws_security_group" "clients" {
  #checkov:skip=CKV2_AWS_5:applications are put into this group, outside of the module
  name_prefix = "${var.name}-clients-"
  description = "Applications that may connect to SideCart ${var.name}"
  vpc_id      = local.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-clients" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "load_balancer" {
  #checkov:skip=CKV2_AWS_5:the module sidecart attaches it to its internal load balancer
  name_prefix = "${var.name}-balancer-"
  description = "Load balancer before SideCart ${var.name}"
  vpc_id      = local.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-balancer" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "developer" {
  #checkov:skip=CKV2_AWS_5:the module sidecart attaches it to the developer's load balancer, where there is one
  name_prefix = "${var.name}-developer-"
  description = "Load balancer for one developer's address before SideCart ${var.name}"
  vpc_id      = local.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-developer" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "sidecart" {
  #checkov:skip=CKV2_AWS_5:the modules sidecart and readonly-role attach it to their tasks
  name_prefix = "${var.name}-sidecart-"
  description = "SideCart ${var.name}"
  vpc_id      = local.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-sidecart" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "database" {
  #checkov:skip=CKV2_AWS_5:the module rds attaches it to the database
  count = var.database_security_group_id == null ? 1 : 0

  name_prefix = "${var.name}-database-"
  description = "Database behind SideCart ${var.name}"
  vpc_id      = local.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-database" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "endpoints" {
  count = var.create_endpoints ? 1 : 0

  name_prefix = "${var.name}-endpoints-"
  description = "Endpoints of AWS services for SideCart ${var.name}"
  vpc_id      = local.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-endpoints" })

  lifecycle {
    create_before_destroy = true
  }
}

# --- into the load balancers ------------------------------------------------------------------------------------------

resource "aws_vpc_security_group_ingress_rule" "load_balancer_from_group" {
  for_each = local.client_groups

  security_group_id            = aws_security_group.load_balancer.id
  description                  = "PostgreSQL from clients"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "load_balancer_from_network" {
  for_each = toset(var.client_cidrs)

  security_group_id = aws_security_group.load_balancer.id
  description       = "PostgreSQL from a private network"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = local.port
  to_port           = local.port
  tags              = var.tags
}

# scripts/update-developer-address.sh applies this resource alone: keep its name.
resource "aws_vpc_security_group_ingress_rule" "developer" {
  count = var.developer_cidr == null ? 0 : 1

  security_group_id = aws_security_group.developer.id
  description       = "PostgreSQL from the developer"
  cidr_ipv4         = var.developer_cidr
  ip_protocol       = "tcp"
  from_port         = local.port
  to_port           = local.port
  tags              = var.tags
}

# --- into SideCart ----------------------------------------------------------------------------------------------------

resource "aws_vpc_security_group_ingress_rule" "sidecart" {
  for_each = merge(local.client_groups, local.doors)

  security_group_id            = aws_security_group.sidecart.id
  description                  = "PostgreSQL from ${each.key}"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "sidecart_health" {
  for_each = local.doors

  security_group_id            = aws_security_group.sidecart.id
  description                  = "Health checks from ${each.key}"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = local.metrics_port
  to_port                      = local.metrics_port
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "sidecart_metrics" {
  for_each = toset(var.metrics_security_group_ids)

  security_group_id            = aws_security_group.sidecart.id
  description                  = "Metrics for Prometheus"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = local.metrics_port
  to_port                      = local.metrics_port
  tags                         = var.tags
}

# --- into the database: SideCart, and nobody else ---------------------------------------------------------------------

resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = local.database_security_group_id
  description                  = "PostgreSQL from SideCart ${var.name}"
  referenced_security_group_id = aws_security_group.sidecart.id
  ip_protocol                  = "tcp"
  from_port                    = var.database_port
  to_port                      = var.database_port
  tags                         = var.tags
}

# --- into the endpoints -----------------------------------------------------------------------------------------------

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  count = var.create_endpoints ? 1 : 0

  security_group_id            = aws_security_group.endpoints[0].id
  description                  = "HTTPS from SideCart ${var.name}"
  referenced_security_group_id = aws_security_group.sidecart.id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "endpoints_from_vpc" {
  for_each = toset(flatten(data.aws_vpc.existing[*].cidr_block_associations[*].cidr_block))

  security_group_id = aws_security_group.endpoints[0].id
  description       = "HTTPS from the VPC, which uses the endpoints too"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = var.tags
}

# --- ways out ---------------------------------------------------------------------------------------------------------

resource "aws_vpc_security_group_egress_rule" "clients" {
  for_each = {
    load_balancer = aws_security_group.load_balancer.id
    sidecart      = aws_security_group.sidecart.id
  }

  security_group_id            = aws_security_group.clients.id
  description                  = "PostgreSQL to ${each.key}"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "doors" {
  for_each = local.doors

  security_group_id            = each.value
  description                  = "PostgreSQL to SideCart"
  referenced_security_group_id = aws_security_group.sidecart.id
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "doors_health" {
  for_each = local.doors

  security_group_id            = each.value
  description                  = "Health checks of SideCart"
  referenced_security_group_id = aws_security_group.sidecart.id
  ip_protocol                  = "tcp"
  from_port                    = local.metrics_port
  to_port                      = local.metrics_port
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "sidecart_database" {
  security_group_id            = aws_security_group.sidecart.id
  description                  = "PostgreSQL to the database"
  referenced_security_group_id = local.database_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = var.database_port
  to_port                      = var.database_port
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "sidecart_endpoints" {
  for_each = local.endpoint_groups

  security_group_id            = aws_security_group.sidecart.id
  description                  = "HTTPS to the endpoints of AWS services"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "sidecart_s3" {
  security_group_id = aws_security_group.sidecart.id
  description       = "HTTPS to S3: layers of images"
  prefix_list_id    = data.aws_ec2_managed_prefix_list.s3.id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = var.tags
}
