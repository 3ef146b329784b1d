mock_provider "aws" {
  source = "../../testing"
}

variables {
  name        = "shop"
  kms_key_arn = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000"
}

run "new_vpc_has_no_way_to_the_internet" {
  command = apply

  assert {
    condition     = length(aws_subnet.private) == 2 && length(aws_subnet.public) == 0
    error_message = "a new VPC has two private subnets, and no public one unless they are wanted"
  }
  assert {
    condition     = alltrue([for subnet in aws_subnet.private : !subnet.map_public_ip_on_launch])
    error_message = "nothing may get a public address"
  }
  assert {
    condition     = length(aws_internet_gateway.this) == 0 && length(aws_route.internet) == 0
    error_message = "no internet gateway unless public subnets are wanted"
  }
  assert {
    condition     = length(distinct([for subnet in aws_subnet.private : subnet.availability_zone])) == 2
    error_message = "the subnets have to lie in two zones"
  }
  assert {
    condition     = aws_flow_log.this[0].traffic_type == "ALL" && aws_cloudwatch_log_group.flow[0].kms_key_id == var.kms_key_arn
    error_message = "all traffic is logged, encrypted"
  }
  assert {
    condition     = length(aws_default_security_group.this[0].ingress) == 0 && length(aws_default_security_group.this[0].egress) == 0
    error_message = "the default group has to allow nothing"
  }
}

run "database_accepts_sidecart_alone" {
  command = apply

  assert {
    condition = (
      aws_vpc_security_group_ingress_rule.database.referenced_security_group_id == aws_security_group.sidecart.id &&
      aws_vpc_security_group_ingress_rule.database.security_group_id == aws_security_group.database[0].id &&
      aws_vpc_security_group_ingress_rule.database.cidr_ipv4 == null &&
      aws_vpc_security_group_ingress_rule.database.cidr_ipv6 == null
    )
    error_message = "the database's one rule names SideCart's group and no address"
  }
  assert {
    condition = (
      aws_vpc_security_group_ingress_rule.database.from_port == 5432 &&
      aws_vpc_security_group_ingress_rule.database.to_port == 5432 &&
      aws_vpc_security_group_ingress_rule.database.ip_protocol == "tcp"
    )
    error_message = "and opens one port"
  }
}

run "ingress_names_groups_only" {
  command = apply

  assert {
    condition = alltrue([
      for rule in concat(
        values(aws_vpc_security_group_ingress_rule.load_balancer_from_group),
        values(aws_vpc_security_group_ingress_rule.sidecart),
        values(aws_vpc_security_group_ingress_rule.sidecart_health),
        values(aws_vpc_security_group_ingress_rule.sidecart_metrics),
        aws_vpc_security_group_ingress_rule.endpoints,
        [aws_vpc_security_group_ingress_rule.database],
      ) : rule.cidr_ipv4 == null && rule.cidr_ipv6 == null && rule.referenced_security_group_id != null
    ])
    error_message = "every rule for who may come in names a group"
  }
  assert {
    condition = (
      length(aws_vpc_security_group_ingress_rule.load_balancer_from_network) == 0 &&
      length(aws_vpc_security_group_ingress_rule.developer) == 0
    )
    error_message = "no address may connect unless one is given"
  }
  assert {
    condition = toset([
      for rule in values(aws_vpc_security_group_ingress_rule.sidecart) : rule.referenced_security_group_id
      ]) == toset([
      aws_security_group.clients.id, aws_security_group.load_balancer.id, aws_security_group.developer.id
    ])
    error_message = "SideCart accepts clients and load balancers"
  }
}

run "egress_is_named_too" {
  command = apply

  assert {
    condition = alltrue([
      for rule in concat(
        values(aws_vpc_security_group_egress_rule.clients),
        values(aws_vpc_security_group_egress_rule.doors),
        values(aws_vpc_security_group_egress_rule.doors_health),
        values(aws_vpc_security_group_egress_rule.sidecart_endpoints),
        [
          aws_vpc_security_group_egress_rule.sidecart_database,
          aws_vpc_security_group_egress_rule.sidecart_s3,
        ],
      ) : rule.cidr_ipv4 == null && rule.cidr_ipv6 == null
    ])
    error_message = "no group may send anywhere"
  }
}

run "endpoints_serve_this_account_alone" {
  command = apply

  assert {
    condition = alltrue([
      for endpoint in aws_vpc_endpoint.interface :
      jsondecode(endpoint.policy).Statement[0].Condition.StringEquals["aws:PrincipalAccount"] == "111122223333"
    ])
    error_message = "an endpoint has to refuse other accounts' identities"
  }
  assert {
    condition     = jsondecode(aws_vpc_endpoint.s3[0].policy).Statement[0].Action == "s3:GetObject"
    error_message = "nothing can be written to S3"
  }
}

run "developer_has_one_address" {
  command = plan

  variables {
    public_subnets = true
    developer_cidr = "203.0.113.7/32"
  }

  assert {
    condition = (
      aws_vpc_security_group_ingress_rule.developer[0].cidr_ipv4 == "203.0.113.7/32" &&
      aws_vpc_security_group_ingress_rule.developer[0].from_port == 6432
    )
    error_message = "the developer's address may reach SideCart's port"
  }
  assert {
    condition     = length(aws_subnet.public) == 2 && alltrue([for subnet in aws_subnet.public : !subnet.map_public_ip_on_launch])
    error_message = "public subnets give no address by themselves"
  }
}

run "existing_vpc_is_left_as_it_is" {
  command = apply

  variables {
    vpc_id                     = "vpc-0a1b2c3d"
    private_subnet_ids         = ["subnet-0a", "subnet-0b"]
    route_table_ids            = ["rtb-0a"]
    database_security_group_id = "sg-0db"
    kms_key_arn                = null
  }

  override_data {
    target = data.aws_vpc.existing
    values = { cidr_block_associations = [{ cidr_block = "10.7.0.0/16" }, { cidr_block = "10.8.0.0/16" }] }
  }

  assert {
    condition = (
      length(aws_vpc.this) == 0 && length(aws_subnet.private) == 0 && length(aws_default_security_group.this) == 0 &&
      length(aws_flow_log.this) == 0 && length(aws_security_group.database) == 0
    )
    error_message = "nothing of an existing VPC may be made anew"
  }
  assert {
    condition = (
      aws_vpc_security_group_ingress_rule.database.security_group_id == "sg-0db" &&
      aws_vpc_security_group_ingress_rule.database.referenced_security_group_id == aws_security_group.sidecart.id
    )
    error_message = "the existing database's group gets one rule, for SideCart's group"
  }
  assert {
    condition     = output.vpc_id == "vpc-0a1b2c3d" && output.private_subnet_ids == tolist(["subnet-0a", "subnet-0b"])
    error_message = "what was given has to come out"
  }
  assert {
    condition = (
      toset(keys(aws_vpc_security_group_ingress_rule.endpoints_from_vpc)) == toset(["10.7.0.0/16", "10.8.0.0/16"]) &&
      alltrue([for rule in aws_vpc_security_group_ingress_rule.endpoints_from_vpc : rule.security_group_id == aws_security_group.endpoints[0].id])
    )
    error_message = "the rest of the VPC has to reach the endpoints, whose names are now theirs"
  }
}

run "endpoints_that_the_existing_vpc_lacks_are_made" {
  command = apply

  variables {
    vpc_id                     = "vpc-0a1b2c3d"
    private_subnet_ids         = ["subnet-0a", "subnet-0b"]
    interface_endpoints        = ["secretsmanager"]
    endpoint_security_group_id = "sg-0e"
  }

  override_data {
    target = data.aws_vpc.existing
    values = { cidr_block_associations = [{ cidr_block = "10.7.0.0/16" }] }
  }

  assert {
    condition     = keys(aws_vpc_endpoint.interface) == ["secretsmanager"] && length(aws_vpc_endpoint.s3) == 0
    error_message = "what is there is not made again"
  }
  assert {
    condition     = toset(keys(aws_vpc_security_group_egress_rule.sidecart_endpoints)) == toset(["made", "existing"])
    error_message = "SideCart reaches both"
  }
}

run "longest_name_fits" {
  command = plan

  variables {
    name = "abcdefghijklmnopqrstuvwxyz-12345"
  }

  assert {
    condition     = aws_iam_role.flow[0].name_prefix == "abcdefghijklmnopqrstuvwxyz-12345-flow-"
    error_message = "AWS takes 38 characters"
  }
}

run "existing_endpoints_are_used" {
  command = plan

  variables {
    vpc_id                     = "vpc-0a1b2c3d"
    private_subnet_ids         = ["subnet-0a", "subnet-0b"]
    create_endpoints           = false
    endpoint_security_group_id = "sg-0e"
  }

  assert {
    condition = (
      length(aws_vpc_endpoint.interface) == 0 && length(aws_vpc_endpoint.s3) == 0 &&
      { for which, rule in aws_vpc_security_group_egress_rule.sidecart_endpoints : which => rule.referenced_security_group_id } == { existing = "sg-0e" }
    )
    error_message = "SideCart reaches the endpoints that are there"
  }
}

# --- what is refused --------------------------------------------------------------------------------------------------

run "clients_from_everywhere_are_refused" {
  command = plan
  variables {
    client_cidrs = ["0.0.0.0/0"]
  }
  expect_failures = [var.client_cidrs]
}

run "clients_from_everywhere_by_ipv6_are_refused" {
  command = plan
  variables {
    client_cidrs = ["::/0"]
  }
  expect_failures = [var.client_cidrs]
}

run "clients_from_a_public_network_are_refused" {
  command = plan
  variables {
    client_cidrs = ["10.1.0.0/16", "203.0.113.0/24"]
  }
  expect_failures = [var.client_cidrs]
}

run "clients_from_half_the_internet_are_refused" {
  command = plan
  variables {
    client_cidrs = ["10.0.0.0/1"]
  }
  expect_failures = [var.client_cidrs]
}

run "developer_from_everywhere_is_refused" {
  command = plan
  variables {
    developer_cidr = "0.0.0.0/0"
  }
  expect_failures = [var.developer_cidr]
}

run "developer_from_everywhere_by_ipv6_is_refused" {
  command = plan
  variables {
    developer_cidr = "::/0"
  }
  expect_failures = [var.developer_cidr]
}

run "developer_from_a_network_is_refused" {
  command = plan
  variables {
    developer_cidr = "203.0.113.0/24"
  }
  expect_failures = [var.developer_cidr]
}

run "developer_at_no_address_is_refused" {
  command = plan
  variables {
    developer_cidr = "0.0.0.0/32"
  }
  expect_failures = [var.developer_cidr]
}

run "public_network_as_vpc_is_refused" {
  command = plan
  variables {
    cidr = "8.8.0.0/16"
  }
  expect_failures = [var.cidr]
}

run "one_subnet_is_refused" {
  command = plan
  variables {
    vpc_id             = "vpc-0a1b2c3d"
    private_subnet_ids = ["subnet-0a"]
    route_table_ids    = ["rtb-0a"]
  }
  expect_failures = [var.private_subnet_ids]
}

run "new_vpc_without_a_key_is_refused" {
  command = plan
  variables {
    kms_key_arn = null
  }
  expect_failures = [var.kms_key_arn]
}

run "missing_endpoints_are_refused" {
  command = plan
  variables {
    vpc_id             = "vpc-0a1b2c3d"
    private_subnet_ids = ["subnet-0a", "subnet-0b"]
    create_endpoints   = false
  }
  expect_failures = [var.endpoint_security_group_id]
}
