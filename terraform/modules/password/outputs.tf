output "password" {
  description = "The password. It stands in the state, too: keep the state in an encrypted backend that few may read."
  value       = terraform_data.this.output
  sensitive   = true
}
