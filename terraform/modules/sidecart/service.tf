resource "aws_ecs_task_definition" "this" {
  count = local.service ? 1 : 0

  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  execution_role_arn       = aws_iam_role.execution[0].arn
  task_role_arn            = aws_iam_role.task[0].arn
  tags                     = var.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  # In a task of its own the container has all of it, so that the helper container needs no part of its own.
  container_definitions = jsonencode(concat(
    [{ for key, value in local.container : key => value if !contains(["cpu", "memory"], key) }],
    [for container in [local.tls_container] : container if local.own_certificate],
  ))

  dynamic "volume" {
    for_each = local.own_certificate ? ["tls"] : []

    content {
      name = volume.value
    }
  }
}

resource "aws_ecs_service" "this" {
  count = local.service ? 1 : 0

  name                    = var.name
  cluster                 = var.cluster_arn
  task_definition         = aws_ecs_task_definition.this[0].arn
  desired_count           = var.capacity.min
  launch_type             = "FARGATE"
  platform_version        = "LATEST"
  enable_ecs_managed_tags = true
  propagate_tags          = "SERVICE"
  enable_execute_command  = false # nobody needs a shell beside a production credential
  tags                    = var.tags

  # The apply fails when the new tasks do not come up, and ECS goes back to the old ones.
  wait_for_steady_state              = true
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 60

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = var.security_group_ids
    assign_public_ip = false
  }

  dynamic "load_balancer" {
    for_each = local.doors

    content {
      target_group_arn = aws_lb_target_group.this[load_balancer.key].arn
      container_name   = "sidecart"
      container_port   = local.port
    }
  }

  lifecycle {
    ignore_changes = [desired_count] # autoscaling's
  }

  depends_on = [aws_lb_listener.this, aws_iam_role_policy.execution]
}

resource "aws_appautoscaling_target" "this" {
  count = local.service ? 1 : 0

  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${element(split("/", var.cluster_arn), 1)}/${aws_ecs_service.this[0].name}"
  min_capacity       = var.capacity.min
  max_capacity       = var.capacity.max
}

resource "aws_appautoscaling_policy" "this" {
  count = local.service ? 1 : 0

  name               = "${var.name}-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this[0].service_namespace
  scalable_dimension = aws_appautoscaling_target.this[0].scalable_dimension
  resource_id        = aws_appautoscaling_target.this[0].resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = var.capacity.cpu_percent
    scale_out_cooldown = 60
    # Long: connections stay where they are, and whose task ends has to connect again.
    scale_in_cooldown = 900

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}
