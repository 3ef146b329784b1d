data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

data "aws_availability_zones" "available" {
  #checkov:skip=CKV_AWS_394:names come in order and the first ones are taken, so that a new zone, which comes last, changes nothing
  state = "available"

  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"] # no local zones: RDS and Fargate are not in all of them
  }
}

locals {
  create    = var.vpc_id == null
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.id

  zones = local.create ? slice(data.aws_availability_zones.available.names, 0, var.availability_zones) : []
  # Eight equal parts: the first half private, the second half public.
  private_cidrs = { for number, zone in local.zones : zone => cidrsubnet(var.cidr, 3, number) }
  public_cidrs  = { for number, zone in local.zones : zone => cidrsubnet(var.cidr, 3, 4 + number) if var.public_subnets }

  vpc_id             = local.create ? aws_vpc.this[0].id : var.vpc_id
  private_subnet_ids = local.create ? [for zone in local.zones : aws_subnet.private[zone].id] : var.private_subnet_ids
  public_subnet_ids  = local.create ? [for zone in keys(local.public_cidrs) : aws_subnet.public[zone].id] : var.public_subnet_ids
  route_table_ids    = local.create ? [aws_route_table.private[0].id] : var.route_table_ids
}

resource "aws_vpc" "this" {
  count = local.create ? 1 : 0

  cidr_block           = var.cidr
  enable_dns_support   = true
  enable_dns_hostnames = true # private DNS of the endpoints needs it
  tags                 = merge(var.tags, { Name = var.name })
}

# A group that allows nothing: who forgets to name a group gets no connection.
resource "aws_default_security_group" "this" {
  count = local.create ? 1 : 0

  vpc_id = aws_vpc.this[0].id
  tags   = merge(var.tags, { Name = "${var.name}-default-allows-nothing" })
}

resource "aws_subnet" "private" {
  for_each = local.private_cidrs

  vpc_id                  = aws_vpc.this[0].id
  availability_zone       = each.key
  cidr_block              = each.value
  map_public_ip_on_launch = false
  tags                    = merge(var.tags, { Name = "${var.name}-private-${each.key}" })
}

# No route but those within the VPC and to the S3 endpoint: no way to the internet, and none from there.
resource "aws_route_table" "private" {
  count = local.create ? 1 : 0

  vpc_id = aws_vpc.this[0].id
  tags   = merge(var.tags, { Name = "${var.name}-private" })
}

resource "aws_route_table_association" "private" {
  for_each = local.private_cidrs

  subnet_id      = aws_subnet.private[each.key].id
  route_table_id = aws_route_table.private[0].id
}

# --- public subnets, for the developer's load balancer ----------------------------------------------------------------

resource "aws_subnet" "public" {
  for_each = local.public_cidrs

  vpc_id                  = aws_vpc.this[0].id
  availability_zone       = each.key
  cidr_block              = each.value
  map_public_ip_on_launch = false
  tags                    = merge(var.tags, { Name = "${var.name}-public-${each.key}" })
}

resource "aws_internet_gateway" "this" {
  count = local.create && var.public_subnets ? 1 : 0

  vpc_id = aws_vpc.this[0].id
  tags   = merge(var.tags, { Name = var.name })
}

resource "aws_route_table" "public" {
  count = local.create && var.public_subnets ? 1 : 0

  vpc_id = aws_vpc.this[0].id
  tags   = merge(var.tags, { Name = "${var.name}-public" })
}

# A route says where answers go, not who may come in: that is the security groups' part.
resource "aws_route" "internet" {
  count = local.create && var.public_subnets ? 1 : 0

  route_table_id         = aws_route_table.public[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this[0].id
}

resource "aws_route_table_association" "public" {
  for_each = local.public_cidrs

  subnet_id      = aws_subnet.public[each.key].id
  route_table_id = aws_route_table.public[0].id
}

# --- flow logs --------------------------------------------------------------------------------------------------------

resource "aws_cloudwatch_log_group" "flow" {
  count = local.create ? 1 : 0

  name              = "/vpc/${var.name}/flow"
  kms_key_id        = var.kms_key_arn
  retention_in_days = var.flow_log_retention_days
  tags              = var.tags
}

resource "aws_iam_role" "flow" {
  count = local.create ? 1 : 0

  name_prefix = "${var.name}-flow-"
  tags        = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "vpc-flow-logs.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_iam_role_policy" "flow" {
  count = local.create ? 1 : 0

  name = "write-flow-logs"
  role = aws_iam_role.flow[0].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
      Resource = "${aws_cloudwatch_log_group.flow[0].arn}:*"
    }]
  })
}

resource "aws_flow_log" "this" {
  count = local.create ? 1 : 0

  vpc_id          = aws_vpc.this[0].id
  traffic_type    = "ALL"
  iam_role_arn    = aws_iam_role.flow[0].arn
  log_destination = aws_cloudwatch_log_group.flow[0].arn
  tags            = merge(var.tags, { Name = var.name })
}
