# AWS's services without a way to the internet: the image, the secrets, the logs.
#
# An endpoint with private DNS serves the whole VPC. In a new one that is SideCart alone, and the policies say so. In an
# existing one others use the same services: there the endpoints have AWS's own policy, and the VPC's addresses may come in,
# so that nobody is cut off.

data "aws_vpc" "existing" {
  count = local.create || !var.create_endpoints ? 0 : 1

  id = var.vpc_id
}

resource "aws_vpc_endpoint" "interface" {
  for_each = var.create_endpoints ? var.interface_endpoints : []

  vpc_id              = local.vpc_id
  service_name        = "com.amazonaws.${local.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  subnet_ids          = local.private_subnet_ids
  security_group_ids  = [aws_security_group.endpoints[0].id]
  private_dns_enabled = true
  tags                = merge(var.tags, { Name = "${var.name}-${each.key}" })

  # Only this account's identities: nobody carries data out to an account of his own.
  policy = !local.create ? null : jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = "*"
      Action    = "*"
      Resource  = "*"
      Condition = { StringEquals = { "aws:PrincipalAccount" = local.account } }
    }]
  })
}

resource "aws_vpc_endpoint" "s3" {
  count = local.create || length(var.route_table_ids) > 0 ? 1 : 0

  vpc_id            = local.vpc_id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = local.route_table_ids
  tags              = merge(var.tags, { Name = "${var.name}-s3" })

  # Two buckets of AWS's own, read only: ECR keeps layers of images in one, Amazon Linux its packages in the other.
  policy = !local.create ? null : jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = "*"
      Action    = "s3:GetObject"
      Resource = [
        "arn:${local.partition}:s3:::prod-${local.region}-starport-layer-bucket/*",
        "arn:${local.partition}:s3:::al2023-repos-${local.region}-de612dc2/*",
      ]
    }]
  })
}

data "aws_ec2_managed_prefix_list" "s3" {
  name = "com.amazonaws.${local.region}.s3"
}
