#!/bin/sh
# Run the task that makes the read-only role, once for each database, and wait for it. Ends with 1, and with what the task
# has logged, when a task fails. Terraform runs this; the output `command` of the module has it for a run by hand.
#
# From the environment: AWS_REGION, CLUSTER, TASK_DEFINITION, SUBNETS and SECURITY_GROUPS (comma-separated), LOG_GROUP,
# DATABASES (separated by blanks). No secret passes here: ECS takes them from Secrets Manager.
set -eu
export AWS_REGION AWS_PAGER=

fail() {
    echo "$*" >&2
    exit 1
}

if ! command -v aws >/dev/null; then
    fail "The AWS CLI is not installed here. Install it, or set apply_role = false and run the output 'command' where it is."
fi

# One after the other: two tasks that alter one role at the same time fail with "tuple concurrently updated".
for database in $DATABASES; do
    echo "Making the read-only role in the database $database ..."
    # The first field is the task, the second the reason why there is none.
    started=$(aws ecs run-task \
        --cluster "$CLUSTER" \
        --task-definition "$TASK_DEFINITION" \
        --launch-type FARGATE \
        --network-configuration "awsvpcConfiguration={subnets=[$SUBNETS],securityGroups=[$SECURITY_GROUPS],assignPublicIp=DISABLED}" \
        --overrides "{\"containerOverrides\":[{\"name\":\"role\",\"environment\":[{\"name\":\"DB_NAME\",\"value\":\"$database\"}]}]}" \
        --query '[tasks[0].taskArn, failures[0].reason]' --output text) || fail "ECS has refused to run the task."
    task=$(echo "$started" | cut -f 1)
    case $task in
        arn:*) ;;
        *) fail "ECS has not started the task: $(echo "$started" | cut -f 2)" ;;
    esac

    # Ten minutes at most.
    aws ecs wait tasks-stopped --cluster "$CLUSTER" --tasks "$task" ||
        fail "The task $task has not ended within ten minutes. Its log: aws logs tail $LOG_GROUP"

    ended=$(aws ecs describe-tasks --cluster "$CLUSTER" --tasks "$task" \
        --query 'tasks[0].[containers[0].exitCode, stoppedReason, containers[0].reason]' --output text)
    # What the task printed, failed or not: the role script names what is left to do by hand. There is no log when the task
    # never ran.
    aws logs get-log-events --log-group-name "$LOG_GROUP" --log-stream-name "role/role/${task##*/}" --start-from-head \
        --query 'events[].[message]' --output text 2>/dev/null || true
    if [ "$(echo "$ended" | cut -f 1)" != 0 ]; then
        fail "The role is not made in the database $database: exit code $(echo "$ended" | cut -f 1), $(echo "$ended" | cut -f 2-)"
    fi
done
