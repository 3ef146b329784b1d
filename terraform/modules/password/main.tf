# The data source answers with another password each time it is read; the first answer is kept.
data "aws_secretsmanager_random_password" "this" {
  password_length            = 40
  exclude_punctuation        = true # 40 letters and digits are 238 bits, and need no escaping in a URL or a shell
  require_each_included_type = true
}

resource "terraform_data" "this" {
  input            = data.aws_secretsmanager_random_password.this.random_password
  triggers_replace = [var.password_version]

  lifecycle {
    ignore_changes = [input]
  }
}
