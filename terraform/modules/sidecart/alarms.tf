# SideCart writes a JSON line for each event on standard error; in every form the lines land in this group, metric filters
# count them, and alarms watch the counts. No agent and no port is needed for that. Prometheus has more, see the README.

resource "aws_cloudwatch_log_group" "this" {
  name              = local.log_group
  kms_key_id        = var.kms_key_arn
  retention_in_days = var.log_retention_days
  tags              = var.tags
}

locals {
  namespace = "SideCart/${var.name}"

  watched = {
    refusals = {
      pattern     = "{ $.event = \"refused\" }"
      threshold   = var.alarm_thresholds.refusals
      description = "Statements were refused: a client tries to write, or needs filter.allow_functions."
    }
    refused_logins = {
      pattern     = "{ $.event = \"login refused\" }"
      threshold   = var.alarm_thresholds.refused_logins
      description = "Clients were not let in: wrong names or passwords."
    }
    waiting_clients = {
      pattern     = "{ ($.event = \"lease failed\") && ($.reason = \"query_wait_timeout\") }"
      threshold   = var.alarm_thresholds.waiting_clients
      description = "Clients have waited for an upstream connection in vain: pool_size is too small, or clients are pinned."
    }
    upstream_failures = {
      pattern     = "{ ($.event = \"upstream login failed\") || ($.event = \"upstream failed\") || ($.event = \"upstream protocol\") }"
      threshold   = var.alarm_thresholds.upstream_failures
      description = "The database could not be reached or logged in to, or has ended connections."
    }
    bugs = {
      pattern     = "{ ($.event = \"bug\") || ($.event = \"tripwire\") || ($.event = \"audit records dropped\") }"
      threshold   = var.alarm_thresholds.bugs
      description = "SideCart has met what cannot be, or lost records of its log: please report it."
    }
  }
}

resource "aws_cloudwatch_log_metric_filter" "this" {
  for_each = local.watched

  name           = "${var.name}-${each.key}"
  log_group_name = aws_cloudwatch_log_group.this.name
  pattern        = each.value.pattern

  metric_transformation {
    namespace     = local.namespace
    name          = each.key
    value         = "1"
    default_value = "0"
    unit          = "Count"
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.watched

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = local.namespace
  metric_name         = each.key
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  treat_missing_data  = "notBreaching" # no line, no event
  alarm_actions       = var.alarm_topic_arns
  ok_actions          = var.alarm_topic_arns
  tags                = var.tags

  depends_on = [aws_cloudwatch_log_metric_filter.this]
}

resource "aws_cloudwatch_metric_alarm" "healthy" {
  for_each = local.doors

  alarm_name          = "${var.name}-${each.key}-healthy"
  alarm_description   = "Fewer SideCarts than capacity.min answer their health check."
  namespace           = "AWS/NetworkELB"
  metric_name         = "HealthyHostCount"
  statistic           = "Minimum"
  period              = 60
  evaluation_periods  = 3
  comparison_operator = "LessThanThreshold"
  threshold           = var.capacity.min
  treat_missing_data  = "breaching" # who has no target reports nothing
  alarm_actions       = var.alarm_topic_arns
  ok_actions          = var.alarm_topic_arns
  tags                = var.tags

  dimensions = {
    LoadBalancer = aws_lb.this[each.key].arn_suffix
    TargetGroup  = aws_lb_target_group.this[each.key].arn_suffix
  }
}
