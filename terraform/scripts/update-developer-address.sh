#!/bin/sh
# Let the developer in from the address that this machine has now, and from no other. Run it when the address has changed.
#
# usage: update-developer-address.sh [-a ADDRESS] [-m MODULE] [-y] [DIRECTORY]
#
#   -a ADDRESS   this IPv4 address, instead of the one that AWS sees this machine at
#   -m MODULE    how DIRECTORY calls the module network (network)
#   -y           do not ask before the change
#   DIRECTORY    the Terraform root, which has the variable developer_cidr (the current directory)
#
# The address goes into DIRECTORY/developer.auto.tfvars, so that Terraform keeps knowing it, and Terraform then applies the
# one rule of the one security group. Exit code: 0 also when nothing had to change, 1 when it failed, 2 for wrong options.
set -eu

fail() {
    echo "$1" >&2
    exit "${2:-1}"
}

usage="usage: update-developer-address.sh [-a ADDRESS] [-m MODULE] [-y] [DIRECTORY]"
address='' module=network approve=''
while getopts a:m:y option; do
    case $option in
        a) address=$OPTARG ;;
        m) module=$OPTARG ;;
        y) approve=-auto-approve ;;
        *) fail "$usage" 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -le 1 ] || fail "$usage" 2
directory=${1:-.}
[ -d "$directory" ] || fail "There is no directory $directory." 2
case $module in
    '' | *[!A-Za-z0-9_-]*) fail "-m takes the name of a module, such as network; $module is none." 2 ;;
esac
command -v terraform >/dev/null || fail "terraform is not installed here."

if [ -z "$address" ]; then
    command -v curl >/dev/null || fail "curl is not installed here: give the address with -a."
    address=$(curl --ipv4 --fail --silent --show-error --max-time 10 https://checkip.amazonaws.com) ||
        fail "AWS does not say which address this machine has: give it with -a."
fi

# One public IPv4 address, and nothing else: the text may come from the network. An address that many machines have, such as
# 192.168.1.10 or 100.64.0.1, is none that AWS could see.
echo "$address" | awk -F. '
    NR > 1 || NF != 4 { bad = 1 }
    { for (i = 1; i <= 4; i++) if ($i !~ /^(0|[1-9][0-9]?[0-9]?)$/ || $i > 255) bad = 1 }
    $1 == 0 || $1 == 10 || $1 == 127 || $1 >= 224 { bad = 1 }
    ($1 == 169 && $2 == 254) || ($1 == 192 && $2 == 168) || ($1 == 172 && $2 >= 16 && $2 <= 31) { bad = 1 }
    $1 == 100 && $2 >= 64 && $2 <= 127 { bad = 1 }
    END { exit bad }
' || fail "$(printf '%.40s' "$address") is not a public IPv4 address, such as 203.0.113.7."

file=$directory/developer.auto.tfvars
line="developer_cidr = \"$address/32\""
if [ -f "$file" ] && [ "$(cat "$file")" = "$line" ]; then
    echo "The address is still $address."
else
    echo "The address is now $address."
fi

# Terraform first: if it fails or is told no, the file still says what holds. It is asked in any case, since an earlier run
# may have been cut off between the two; it changes nothing that is right.
# shellcheck disable=SC2086  # no option at all without -y
terraform -chdir="$directory" apply $approve -target="module.$module.aws_vpc_security_group_ingress_rule.developer" \
    -var "developer_cidr=$address/32" || fail "Terraform has not let $address in."
printf '%s\n' "$line" >"$file.new"
mv "$file.new" "$file"
