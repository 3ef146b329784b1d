# One load balancer for the VPC, and one with a public address if a developer has to come in from outside. They pass the
# bytes on: TLS and SCRAM are between the client and SideCart.

locals {
  doors = local.sidecar ? {} : merge(
    {
      internal = {
        subnet_ids         = var.subnet_ids
        security_group_ids = var.load_balancer_security_group_ids
      }
    },
    var.developer_load_balancer == null ? {} : {
      developer = {
        subnet_ids         = var.developer_load_balancer.subnet_ids
        security_group_ids = [var.developer_load_balancer.security_group_id]
      }
    },
  )
}

resource "aws_lb" "this" {
  #checkov:skip=CKV_AWS_91:a network load balancer logs its TLS listeners alone; who connects stands in SideCart's own log
  #checkov:skip=CKV_AWS_150:the internal one is protected; the developer's has to go with the developer's address
  for_each = local.doors

  name                             = "${var.name}-${each.key == "internal" ? "in" : "dev"}"
  load_balancer_type               = "network"
  internal                         = each.key == "internal"
  subnets                          = each.value.subnet_ids
  security_groups                  = each.value.security_group_ids
  enable_cross_zone_load_balancing = true
  enable_deletion_protection       = var.deletion_protection && each.key == "internal" # a developer comes and goes
  tags                             = var.tags
}

resource "aws_lb_target_group" "this" {
  #checkov:skip=CKV_AWS_378:the health page holds no secret, and is asked for within the VPC
  for_each = local.doors

  name                 = "${var.name}-${each.key == "internal" ? "in" : "dev"}"
  port                 = local.port
  protocol             = "TCP"
  target_type          = local.ec2 ? "instance" : "ip"
  vpc_id               = var.vpc_id
  preserve_client_ip   = true # SideCart's log and limits name the client, not the load balancer
  deregistration_delay = 60
  tags                 = var.tags

  # /healthz, not /readyz: while the database fails over clients wait in SideCart, which is better than no SideCart.
  health_check {
    protocol            = "HTTP"
    port                = tostring(local.metrics_port)
    path                = "/healthz"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

resource "aws_lb_listener" "this" {
  for_each = local.doors

  load_balancer_arn = aws_lb.this[each.key].arn
  port              = local.port
  protocol          = "TCP" # TLS begins after PostgreSQL's SSLRequest, in SideCart
  # The longest there is: a quiet session would be cut without a word.
  tcp_idle_timeout_seconds = 6000
  tags                     = var.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this[each.key].arn
  }
}
