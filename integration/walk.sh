#!/usr/bin/env bash
# Drives the binary from outside: shell, redis-cli and jq, nothing of the
# engine's own. It counts the runs of handlers in a file, and looks at Redis
# with redis-cli.
#
# It starts a Redis of its own on loopback, or uses the one that
# PENSTOCK_TEST_REDIS names, with random stream names, and deletes those alone.
# One line a check, "N passed, N failed" at the end, exit status 1 if any failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# Nothing of the caller's may have a part in what is tested.
TEST_REDIS=${PENSTOCK_TEST_REDIS:-}
for name in $(compgen -e | grep -E '^(PENSTOCK_|REDIS_)'); do unset "$name"; done

passed=0 failed=0
tmp=$(mktemp -d) || exit 1
run="walk-$$-$RANDOM"
server='' server_pid='' pids=()

ok() { passed=$((passed + 1)); printf 'ok      %s\n' "$1"; }
not_ok() {
	failed=$((failed + 1))
	printf 'not ok  %s\n' "$1"
	[ $# -lt 2 ] || printf '%s\n' "$2" | head -30 | sed 's/^/          /'
}

# same NAME WANT GOT
same() { if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "want: $2"$'\n'"got:  $3"; fi; }

# has NAME PART TEXT
has() { if [[ $3 == *"$2"* ]]; then ok "$1"; else not_ok "$1" "want a part: $2"$'\n'"got: $3"; fi; }

# left_out WHAT: checks that are not for a Redis of somebody else's
left_out() { printf 'left out  %s: it takes a Redis of its own, and PENSTOCK_TEST_REDIS is set\n' "$1"; }

# check NAME COMMAND…: it must succeed
check() {
	local name=$1 out
	shift
	if out=$("$@" 2>&1); then ok "$name"; else not_ok "$name" "$* ended with $?: $out"; fi
}

# until_true SECONDS COMMAND…: waits for it to succeed
until_true() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < end)) || return 1
		sleep 0.05
	done
}

# wait_for NAME SECONDS COMMAND…: a check that waits
wait_for() {
	local name=$1 seconds=$2
	shift 2
	if until_true "$seconds" "$@"; then ok "$name"; else not_ok "$name" "not within ${seconds}s: $*"; fi
}

# equals WANT COMMAND…: what it writes is WANT
equals() {
	local want=$1
	shift
	[ "$("$@" 2>/dev/null)" = "$want" ]
}

alive() { kill -0 "$1" 2>/dev/null; }
gone() { ! alive "$1"; }

# stop PID [SECONDS]: SIGTERM, and its exit status in $status; 124 when it had to be killed
stop() {
	kill -TERM "$1" 2>/dev/null
	reap "$1" "${2:-20}"
}
reap() {
	if until_true "$2" gone "$1"; then
		wait "$1" 2>/dev/null
		status=$?
	else
		kill -KILL "$1" 2>/dev/null
		wait "$1" 2>/dev/null
		status=124
	fi
}

cleanup() {
	trap '' INT TERM
	local pid
	for pid in "${pids[@]:-}"; do [ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null; done
	for pid in "${pids[@]:-}"; do [ -z "$pid" ] || { until_true 10 gone "$pid" || kill -KILL "$pid" 2>/dev/null; }; done
	if [ -n "$TEST_REDIS" ] && [ -n "$server" ]; then
		our_keys | while read -r key; do "${redis[@]}" DEL "$key" >/dev/null; done
		"${redis[@]}" SMEMBERS penstock:streams 2>/dev/null | grep "$run" | while read -r name; do "${redis[@]}" SREM penstock:streams "$name" >/dev/null; done
	fi
	[ -z "$server_pid" ] || { kill -KILL "$server_pid" && wait "$server_pid"; } 2>/dev/null
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

die() {
	not_ok "$1" "${2:-}"
	printf '%d passed, %d failed\n' "$passed" "$failed"
	exit 1
}

# ---- the binary and a Redis

command -v jq >/dev/null || die "jq is there" "apt-get install jq"
cli=redis-cli
command -v $cli >/dev/null || cli=valkey-cli
command -v $cli >/dev/null || die "redis-cli is there" "apt-get install redis-tools"

bin=$tmp/penstock
out=$(go build -o "$bin" ./cmd/penstock 2>&1) || die "the binary builds" "$out"
ok "the binary builds"

if [ -n "$TEST_REDIS" ]; then
	server=$TEST_REDIS
else
	redis_server=redis-server
	command -v $redis_server >/dev/null || redis_server=valkey-server
	command -v $redis_server >/dev/null || die "a Redis server is there" "apt-get install redis-server, or set PENSTOCK_TEST_REDIS"
	for _ in 1 2 3 4 5; do
		port=$((10000 + RANDOM % 20000)) # below those that the kernel gives to clients
		$redis_server --port $port --bind 127.0.0.1 --save '' --appendonly no --dir "$tmp" >"$tmp/redis.log" 2>&1 &
		server_pid=$!
		if until_true 5 equals PONG $cli -p $port PING && alive $server_pid; then
			server=redis://127.0.0.1:$port/0
			break
		fi
		kill -KILL $server_pid 2>/dev/null
		wait $server_pid 2>/dev/null
		server_pid=''
	done
	[ -n "$server" ] || die "a Redis starts" "$(cat "$tmp/redis.log")"
fi
redis=(timeout 10 $cli -u "$server")
equals PONG "${redis[@]}" PING || die "Redis answers" "$("${redis[@]}" PING 2>&1)"
ok "Redis answers"
export REDIS_URL=$server

penstock() { timeout 60 "$bin" "$@"; }

# our_keys lists all keys this script is the cause of.
our_keys() {
	if [ -n "$TEST_REDIS" ]; then "${redis[@]}" --scan --pattern "*$run*"; else "${redis[@]}" --scan; fi
}

# background NAME COMMAND…: starts it, with its output in $tmp/NAME.out and .err, and its process in $pid
background() {
	local name=$1
	shift
	"$@" >"$tmp/$name.out" 2>"$tmp/$name.err" &
	pid=$!
	pids+=("$pid")
}

# worker NAME ARG…: starts one and waits until it is ready
worker() {
	local name=$1
	shift
	background "$name" "$bin" worker --json "$@"
	until_true 10 grep -q '"ready":true' "$tmp/$name.out" || not_ok "worker $name is ready" "$(cat "$tmp/$name.out" "$tmp/$name.err")"
}

# stats NAME FIELD: of what a worker said last
stats() { jq -r "select(.stopped) | .stats.$2" "$tmp/$1.out"; }

depth() { penstock stream show "$1" --json | jq -r ".groups[] | select(.name == \"$2\") | .$3"; }
drained() { [ "$(penstock stream show "$1" --json | jq -r ".groups[] | select(.name == \"$2\") | .waiting + .active + .scheduled + .retrying")" = 0 ]; }

reason() { penstock dead show "$1" "$2" "$3" --json | jq -r .reason; }

# The handler that all workers run: it says in a file that it ran, and ends by the type of its job.
export RUNS=$tmp/runs GATE=$tmp/gate
: >"$RUNS"
cat >"$tmp/handler" <<'HANDLER'
#!/bin/sh
data=$(cat)
echo "$PENSTOCK_JOB_STREAM $PENSTOCK_JOB_GROUP $PENSTOCK_JOB_TYPE $PENSTOCK_JOB_ID $PENSTOCK_JOB_ATTEMPT $data" >>"$RUNS"
case $PENSTOCK_JOB_TYPE in
fails) echo "it never works" >&2; exit 1 ;;
later) [ "$PENSTOCK_JOB_ATTEMPT" -ge 3 ] || exit 75 ;;
hopeless) exit 65 ;;
poison) kill -KILL $PPID ;; # the worker that runs it
gated) while [ ! -e "$GATE" ]; do sleep 0.02; done ;;
held) echo $$ >"$RUNS.$PENSTOCK_JOB_ID"; while :; do sleep 0.02; done ;; # until somebody stops it
esac
HANDLER
chmod +x "$tmp/handler"

runs() { grep -c "^$1 " "$RUNS"; }                                # runs STREAM[ GROUP[ TYPE]]
distinct() { grep "^$1 " "$RUNS" | awk '{ print $4 }' | sort -u | wc -l | tr -d ' '; } # jobs that ran

# ---- settings

out=$(env -u REDIS_URL "$bin" worker orders -- true 2>&1)
same "REDIS_URL unset: exit status 2" 2 $?
same "REDIS_URL unset: what it is, and what to do" "penstock: REDIS_URL is not set
  set it, e.g. REDIS_URL=redis://localhost:6379/0, or run \`penstock dev\` to try Penstock without Redis" "$out"

bad=(PENSTOCK_MAX_JOBS=0 PENSTOCK_JOB_TIMEOUT=never PENSTOCK_KEEP_RESULT=0 PENSTOCK_POLL_DELAY=1ms PENSTOCK_RETRY_FACTOR=0.5 PENSTOCK_MAX_TRIES=-1)
out=$(env "${bad[@]}" "$bin" worker orders -- true 2>&1)
same "six bad settings: exit status 2" 2 $?
has "six bad settings come back in one error" "6 settings are wrong" "$out"
lines=0
for setting in "${bad[@]}"; do
	grep -qE "^ +${setting%%=*} +${setting#*=} +[a-z]" <<<"$out" && lines=$((lines + 1))
done
if [ $lines = 6 ]; then ok "each with its name, its value and a hint"; else not_ok "each with its name, its value and a hint" "$out"; fi

same "what is no command: exit status 2" 2 "$(penstock dig >/dev/null 2>&1; echo $?)"
check "version" penstock version
check "check finds this Redis well" penstock check
out=$(REDIS_URL=redis://:hush@127.0.0.1:1/0 "$bin" config 2>&1)
if [[ $out == *REDIS_URL* && $out != *hush* ]]; then ok "config shows settings, and no password"; else not_ok "config shows settings, and no password" "$out"; fi

# ---- commands: exit statuses, tries, dead letters

export PENSTOCK_RETRY_DELAY=50ms PENSTOCK_RETRY_FACTOR=1
q=$run-orders
{
	for i in $(seq 20); do printf '{"type":"works","data":{"n":%d}}\n' "$i"; done
	for i in $(seq 5); do printf '{"type":"fails","id":"fails-%d","data":%d}\n' "$i" "$i"; done
	for i in $(seq 5); do printf '{"type":"later","id":"later-%d"}\n' "$i"; done
	for i in $(seq 3); do printf '{"type":"hopeless","id":"hopeless-%d"}\n' "$i"; done
} >"$tmp/jobs"
check "33 jobs are published as NDJSON" penstock publish "$q" --ndjson <"$tmp/jobs"
check "and one by itself" penstock publish "$q" works '{"n":21}' --header tenant=acme
same "34 entries wait in the stream" 34 "$("${redis[@]}" XLEN "$q")"
same "a plain entry has the four fields" "type data traceparent opts" \
	"$("${redis[@]}" --json XRANGE "$q" - + COUNT 1 | jq -r '.[0][1] | if type == "object" then keys_unsorted else [.[range(0; length; 2)]] end | join(" ")')"

worker first "$q" --group billing --max-jobs 4 -- "$tmp/handler"
wait_for "all jobs end" 30 drained "$q" billing
same "exit 0 completes: 21 runs of 21 jobs" 21 "$(runs "$q billing works")"
same "exit 1 fails a try: 15 runs of 5 jobs" 15 "$(runs "$q billing fails")"
same "exit 75 too, and the third run completes" 15 "$(runs "$q billing later")"
same "exit 65 takes no further try: 3 runs of 3 jobs" 3 "$(runs "$q billing hopeless")"
same "data arrives as it was published" 1 "$(grep -cF ' {"n":21}' "$RUNS")"
same "8 dead letters" 8 "$(depth "$q" billing dead)"
same "in Redis too" 8 "$("${redis[@]}" XLEN "{$q}:g:billing:dead")"

# ---- dead letters

ls=$(penstock dead ls "$q" billing --json)
same "dead ls lists them" 8 "$(wc -l <<<"$ls" | tr -d ' ')"
same "with the tries they had" "3 1" "$(jq -rs '[(map(select(.type == "fails"))[0].attempt), (map(select(.type == "hopeless"))[0].attempt)] | join(" ")' <<<"$ls")"
same "dead ls by type" 3 "$(penstock dead ls "$q" billing --type hopeless --json | wc -l | tr -d ' ')"
same "dead ls by error" 5 "$(penstock dead ls "$q" billing --error 'never works' --json | wc -l | tr -d ' ')"
out=$(penstock dead show "$q" billing fails-3)
has "dead show says why" "it never works" "$out"
same "dead show --raw gives the payload" 3 "$(penstock dead show "$q" billing fails-3 --raw)"
same "dead show of none: exit status 1" 1 "$(penstock dead show "$q" billing nobody >/dev/null 2>&1; echo $?)"
out=$(penstock publish "$q" works --id fails-3 --json)
same "the ID of a dead letter is taken" "true dead" "$(jq -r '"\(.duplicate) \(.state)"' <<<"$out")"
same "redrive --dry-run moves none" 8 "$(penstock dead redrive "$q" billing --all --dry-run >/dev/null 2>&1; depth "$q" billing dead)"
check "redrive one" penstock dead redrive "$q" billing fails-1 --yes
wait_for "it runs three times more, and is dead again" 20 equals 6 grep -c "^$q billing fails fails-1 " "$RUNS"
wait_for "with eight again" 10 equals 8 depth "$q" billing dead
check "redrive by type" penstock dead redrive "$q" billing --type hopeless --yes
wait_for "they run again" 20 equals 6 runs "$q billing hopeless"
wait_for "and are dead again" 10 equals 8 depth "$q" billing dead
same "purge asks, and nobody is here: exit status 2" 2 "$(penstock dead purge "$q" billing --all </dev/null >/dev/null 2>&1; echo $?)"
check "purge one" penstock dead purge "$q" billing fails-1 --yes
same "seven are left" 7 "$(depth "$q" billing dead)"
out=$(penstock publish "$q" works --id fails-1 --json)
same "its ID is free again" false "$(jq -r .duplicate <<<"$out")"
check "purge all" penstock dead purge "$q" billing --all --yes
same "none is left" 0 "$(depth "$q" billing dead)"
wait_for "all jobs end" 20 drained "$q" billing

# ---- entries of redis-cli

for i in $(seq 10); do "${redis[@]}" XADD "$q" '*' type works data "by-hand-$i" traceparent '' opts '' >/dev/null; done
wait_for "ten entries by XADD run" 20 equals 10 grep -c "^$q billing works .* by-hand-" "$RUNS"
wait_for "and end" 10 drained "$q" billing
"${redis[@]}" XADD "$q" '*' type fails data opts-by-hand traceparent '' opts '{"mt":2,"zz":"kept"}' >/dev/null
wait_for "opts written by hand hold: two tries" 20 equals 1 depth "$q" billing dead
same "two runs" 2 "$(grep -c "^$q billing fails .* opts-by-hand" "$RUNS")"
has "an unknown key of opts survives" '"zz":"kept"' "$("${redis[@]}" XRANGE "{$q}:g:billing:dead" - +)"
check "purge it" penstock dead purge "$q" billing --all --yes

foreign=$run-foreign
for i in $(seq 10); do "${redis[@]}" XADD "$foreign" '*' sku "A-$i" count "$i" >/dev/null; done
"${redis[@]}" XGROUP CREATE "$foreign" etl 0 >/dev/null
out=$(timeout 20 "$bin" worker "$foreign" --group shop -- "$tmp/handler" 2>&1)
same "a worker refuses a foreign stream: exit status 1" 1 $?
has "and says what to do" "penstock stream create $foreign" "$out"
out=$(penstock stream create "$foreign" --kind queue 2>&1)
same "making it a queue is refused: exit status 1" 1 $?
has "since a group would lose its entries" "etl would lose them" "$out"
check "--force makes it one" penstock stream create "$foreign" --kind queue --force
"${redis[@]}" XGROUP DESTROY "$foreign" etl >/dev/null
cat >"$tmp/foreign" <<'HANDLER'
#!/bin/sh
echo "$PENSTOCK_JOB_STREAM $PENSTOCK_JOB_FIELDS" >>"$RUNS"
HANDLER
chmod +x "$tmp/foreign"
worker shop "$foreign" --group shop -- "$tmp/foreign"
shop=$pid
wait_for "ten foreign entries run" 20 equals 10 runs "$foreign"
same "with their fields" 55 "$(grep "^$foreign " "$RUNS" | cut -d' ' -f2- | jq -s 'map(.count | tonumber) | add')"
wait_for "and end" 10 equals 0 "${redis[@]}" XLEN "$foreign"
stop "$shop"
same "SIGTERM ends the worker with exit status 0" 0 "$status"
same "it has left its group" 0 "$("${redis[@]}" XINFO CONSUMERS "$foreign" shop | grep -c name)"

# ---- jobs for later, chosen IDs

background scheduler "$bin" scheduler
scheduler=$pid
out=$(penstock publish "$q" works '"delayed"' --id delayed-1 --delay 1s --json)
same "a delayed job is scheduled" "delayed-1 scheduled false" "$(jq -r '"\(.id) \(.state) \(.duplicate)"' <<<"$out")"
out=$(penstock publish "$q" works '"twice"' --id delayed-1 --json)
same "its ID is taken while it waits: exit status 0" 0 $?
same "and the receipt says how it stands" "delayed-1 scheduled true" "$(jq -r '"\(.id) \(.state) \(.duplicate)"' <<<"$out")"
same "it has not run before its time" 0 "$(grep -c "^$q billing works delayed-1 " "$RUNS")"
wait_for "it runs when it is due" 15 grep -q "^$q billing works delayed-1 1 \"delayed\"" "$RUNS"
wait_for "and ends" 10 drained "$q" billing
same "once" 1 "$(grep -c "^$q billing works delayed-1 " "$RUNS")"
out=$(penstock publish "$q" works --id delayed-1 --json)
same "its ID stays taken for a moment" "true completed" "$(jq -r '"\(.duplicate) \(.state)"' <<<"$out")"

rm -f "$GATE"
penstock publish "$q" gated --id gated-1 >/dev/null
wait_for "a job runs" 15 grep -q "^$q billing gated gated-1 " "$RUNS"
out=$(penstock publish "$q" gated --id gated-1 --json)
same "its ID is taken while it runs" "true active" "$(jq -r '"\(.duplicate) \(.state)"' <<<"$out")"
: >"$GATE"
wait_for "and it ends" 15 drained "$q" billing
penstock publish "$q" works --expires 1ms --id late --delay 300ms >/dev/null
wait_for "a job that has expired is dead" 15 equals expired reason "$q" billing late
same "and has not run" 0 "$(grep -c "^$q billing works late " "$RUNS")"
check "purge it" penstock dead purge "$q" billing late --yes

# ---- jobs moved and retried

penstock publish "$q" works '"moved"' --id moved-1 --delay 1h >/dev/null
out=$(penstock job move "$q" moved-1 --delay 2h --json)
same "a scheduled job is moved" "moved-1 true" "$(jq -r '"\(.id) \(.due | test("^20[0-9-]{8}T"))"' <<<"$out")"
same "and job get says the same" "scheduled $(jq -r .due <<<"$out")" "$(penstock job get "$q" moved-1 --json | jq -r '"\(.state) \(.due)"')"
out=$(penstock job retry "$q" moved-1 2>&1)
same "it can't be retried: exit status 1" 1 $?
has "and the hint says what to do" "penstock job move $q moved-1 --now" "$out"
check "move it to now" penstock job move "$q" moved-1 --now
wait_for "it runs" 15 grep -q "^$q billing works moved-1 1 \"moved\"" "$RUNS"
wait_for "and ends" 10 drained "$q" billing
same "once" 1 "$(grep -c "^$q billing works moved-1 " "$RUNS")"
same "what has ended can't be moved: exit status 1" 1 "$(penstock job move "$q" moved-1 --now >/dev/null 2>&1; echo $?)"
penstock publish "$q" works '"again"' --expires 1ms --id again-1 --delay 300ms >/dev/null
wait_for "a job is dead" 15 equals expired reason "$q" billing again-1
same "job retry sends it back" "again-1  waiting, was dead" "$(penstock job retry "$q" again-1)"
wait_for "and it runs" 15 grep -q "^$q billing works again-1 1 \"again\"" "$RUNS"
wait_for "and ends" 10 drained "$q" billing

# ---- jobs cancelled, kill switches

c=$run-cancel
penstock publish "$c" works --id waits-1 >/dev/null
penstock publish "$c" works --id waits-2 >/dev/null
penstock publish "$c" works --id scheduled-1 --delay 1h >/dev/null
out=$(penstock job cancel "$c" waits-1 nobody scheduled-1 2>"$tmp/cancel.err")
same "job cancel, and one of three is none: exit status 1" 1 $?
same "the others are cancelled" "waits-1  cancelled
scheduled-1  cancelled" "$out"
has "and it says which is none" "no job nobody in $c" "$(cat "$tmp/cancel.err")"
same "nothing of them is left in Redis" "1 0" "$("${redis[@]}" XLEN "$c") $("${redis[@]}" ZCARD "{$c}:scheduled")"
same "their records say so" "cancelled cancelled" "$(for id in waits-1 scheduled-1; do penstock job get "$c" $id --json | jq -r .state; done | paste -sd ' ')"

switch=$(penstock switch add "$c" works --pause --for 1h --reason "a walk" --json | jq -r .id)
has "switch ls lists a switch" "$switch  pause   works" "$(penstock switch ls "$c")"
paused() { [ "$(penstock job get "$1" "$2" --json | jq -r '"\(.state) \(.paused > 0) \(.attempt)"')" = "retrying true 1" ]; }
PENSTOCK_LEASE=10s worker switched "$c" --group g --max-jobs 4 -- "$tmp/handler"
switched=$pid
wait_for "a worker that comes later puts off what a switch pauses" 15 paused "$c" waits-2
penstock publish "$c" later --id later-1 >/dev/null
wait_for "other types run" 15 equals 3 runs "$c g later"
same "and the paused one has not" 0 "$(runs "$c g works")"
has "job get says why" "by a kill switch" "$(penstock job get "$c" waits-2)"
out=$(penstock switch rm "$c" "${switch%?}" 2>&1)
same "switch rm of none: exit status 1" 1 $?
has "and it names the nearest" "did you mean $switch?" "$out"
same "switch rm" "$switch  lifted" "$(penstock switch rm "$c" "$switch")"
wait_for "the paused job runs within seconds" 10 grep -q "^$c g works waits-2 1 " "$RUNS"
same "there are no switches left" "no kill switches" "$(penstock switch ls "$c")"

running() { alive "$(cat "$RUNS.$1" 2>/dev/null || echo none)"; }
ended() { [ "$(penstock job get "$1" "$2" --json | jq -r .state)" = "$3" ]; }
penstock publish "$c" held --id held-1 >/dev/null
wait_for "a job runs" 15 running held-1
same "job cancel tells it to stop" "held-1  active, and told to stop" "$(penstock job cancel "$c" held-1)"
wait_for "its process ends" 15 gone "$(cat "$RUNS.held-1")"
wait_for "and it is cancelled" 15 ended "$c" held-1 cancelled
same "job wait says so: exit status 1" 1 "$(penstock job wait "$c" held-1 >/dev/null 2>&1; echo $?)"

for tenant in acme other; do penstock publish "$c" held "{\"tenant\":\"$tenant\"}" --id $tenant-1 >/dev/null; done
for tenant in acme other; do wait_for "a job of tenant $tenant runs" 15 running $tenant-1; done
switch=$(penstock switch add "$c" held --cancel --field tenant --value acme --yes --json | jq -r .id)
wait_for "a switch for one of them ends its process" 15 gone "$(cat "$RUNS.acme-1")"
wait_for "and cancels it" 15 ended "$c" acme-1 cancelled
penstock publish "$c" held '{"tenant":"acme"}' --id acme-2 >/dev/null
wait_for "the next one of that tenant is cancelled" 15 ended "$c" acme-2 cancelled
same "and has not run" 1 "$(grep -c '"tenant":"acme"' "$RUNS")"
check "the other one runs on" running other-1
check "lift the switch" penstock switch rm "$c" "$switch"
check "cancel the other one" penstock job cancel "$c" other-1
wait_for "its process ends" 15 gone "$(cat "$RUNS.other-1")"
wait_for "all jobs end" 15 drained "$c" g
same "each was started once" 3 "$(runs "$c g held")"
wait_for "a heartbeat forgets that they were to be cancelled" 20 equals 0 "${redis[@]}" ZCARD "{$c}:cancelled"
stop "$switched"
same "the worker ends with exit status 0" 0 "$status"
same "it counts what it cancelled" 4 "$(stats switched cancelled)"

# ---- stream ls, show; events

has "stream ls lists the queue" "\"name\":\"$q\",\"kind\":\"queue\"" "$(penstock stream ls --json)"
has "stream show shows its group" billing "$(penstock stream show "$q")"
same "stream show of none: exit status 1" 1 "$(penstock stream show "$run-none" >/dev/null 2>&1; echo $?)"
out=$(timeout 20 "$bin" worker "$q" --group second -- true 2>&1)
same "a queue refuses a second group: exit status 1" 1 $?

e=$run-events
check "stream create declares an events stream" penstock stream create "$e" --kind events
worker mail "$e" --group mail -- "$tmp/handler"
mail=$pid
worker audit "$e" --group audit -- "$tmp/handler"
audit=$pid
for i in $(seq 10); do printf '{"type":"works","data":%d}\n{"type":"fails","data":%d,"max_tries":2}\n' "$i" "$i"; done | penstock publish "$e" --ndjson >/dev/null 2>&1
wait_for "events: all ends in one group" 30 equals 10 depth "$e" mail dead
wait_for "and in the other" 30 equals 10 depth "$e" audit dead
same "mail got every job" "10 20" "$(runs "$e mail works") $(runs "$e mail fails")"
same "audit got every job" "10 20" "$(runs "$e audit works") $(runs "$e audit fails")"
same "the entries stay" 20 "$("${redis[@]}" XLEN "$e")"
check "one group redrives its own" penstock dead redrive "$e" mail --all --yes
wait_for "which run again there" 30 equals 40 runs "$e mail fails"
wait_for "and die again" 10 equals 10 depth "$e" mail dead
same "and not in the other" 20 "$(runs "$e audit fails")"
for group in mail audit; do check "purge the letters of $group" penstock dead purge "$e" $group --all --yes; done
stop "$mail"
same "worker mail ends with exit status 0" 0 "$status"
stop "$audit"
same "worker audit ends with exit status 0" 0 "$status"

# ---- SIGTERM with jobs in hand

d=$run-deploy
rm -f "$GATE"
# Fast jobs first, so that the worker reads ahead; then those that wait for the gate.
for i in $(seq 60); do printf '{"type":"works"}\n'; done >"$tmp/deploy"
for i in $(seq 40); do printf '{"type":"gated","id":"deploy-%d"}\n' "$i"; done >>"$tmp/deploy"
penstock publish "$d" --ndjson <"$tmp/deploy" >/dev/null 2>&1
PENSTOCK_GRACE=500ms worker old "$d" --group g --max-jobs 2 -- "$tmp/handler"
old=$pid
wait_for "two jobs run, and others wait" 30 equals 2 runs "$d g gated"
held=$(depth "$d" g active)
stop "$old"
same "SIGTERM with $held jobs in hand: exit status 0" 0 "$status"
handed=$(stats old handed_back)
if ((handed >= held && held >= 2)); then ok "they are handed back"; else not_ok "they are handed back" "$handed of $held"; fi
same "nothing is active, all 40 wait" "0 40" "$(depth "$d" g active) $(depth "$d" g waiting)"
same "the worker has left its group" 0 "$(depth "$d" g workers)"
: >"$GATE"
worker new "$d" --group g --max-jobs 4 -- "$tmp/handler"
new=$pid
wait_for "another worker finishes them" 30 drained "$d" g
same "each of the 40 ran to its end" 40 "$(distinct "$d g gated")"
same "two of them twice, since they were cancelled" 42 "$(runs "$d g gated")"
same "and no try was lost by that" 0 "$(awk -v d="$d" '$1 == d && $5 != 1' "$RUNS" | wc -l | tr -d ' ')"
same "no dead letters" 0 "$(depth "$d" g dead)"

# Two workers, one of which ends while jobs flow: nothing is lost or done twice.
worker newer "$d" --group g --max-jobs 4 -- "$tmp/handler"
for i in $(seq 600); do printf '{"type":"works","id":"flow-%d"}\n' "$i"; done | penstock publish "$d" --ndjson >/dev/null 2>&1
flowing() { [ "$(grep -c "^$d g works flow-" "$RUNS")" -ge 30 ]; }
wait_for "two workers work" 20 flowing
stop "$new"
same "a worker that ends in the flow: exit status 0" 0 "$status"
wait_for "the other finishes" 60 drained "$d" g
same "all 600 jobs ran" 600 "$(grep -o "^$d g works flow-[0-9]* " "$RUNS" | sort -u | wc -l | tr -d ' ')"
same "none a second time" 600 "$(grep -c "^$d g works flow-" "$RUNS")"
stop "$pid"
same "and ends with exit status 0" 0 "$status"

# ---- kill -9, a frozen worker, and a job that kills its workers

k=$run-kill
rm -f "$GATE"
export PENSTOCK_LEASE=10s
for i in $(seq 10); do printf '{"type":"gated","id":"kill-%d"}\n' "$i"; done | penstock publish "$k" --ndjson >/dev/null 2>&1
worker victim "$k" --group g --max-jobs 2 -- "$tmp/handler"
victim=$pid
worker frozen "$k" --group g --max-jobs 2 -- "$tmp/handler"
frozen=$pid
wait_for "two workers run two jobs each" 30 equals 4 runs "$k g gated"
kill -KILL "$victim"
kill -STOP "$frozen"
killed_at=$SECONDS
: >"$GATE"
worker heir "$k" --group g --max-jobs 4 -- "$tmp/handler"
heir=$pid
wait_for "another worker takes over what the dead and the frozen one held" 60 drained "$k" g
took=$((SECONDS - killed_at))
if ((took >= 9 && took <= 30)); then ok "when their leases are over"; else not_ok "when their leases are over" "after ${took}s"; fi
same "each of the 10 ran" 10 "$(distinct "$k g gated")"
same "the four that were held twice" 14 "$(runs "$k g gated")"
same "and none lost a try by it" 0 "$(awk -v k="$k" '$1 == k && $5 != 1' "$RUNS" | wc -l | tr -d ' ')"
kill -CONT "$frozen"
wait_for "the frozen worker hears that its leases are lost" 20 grep -q 'lease of a job was lost' "$tmp/frozen.err"
stop "$frozen"
same "and ends with exit status 0" 0 "$status"
same "having ended nothing that was not its own" 0 "$(stats frozen completed)"
stop "$heir"
same "four jobs were taken over" 4 "$(stats heir reclaimed)"

p=$run-poison
printf '{"type":"poison","id":"poison"}\n' >"$tmp/poison"
for i in $(seq 9); do printf '{"type":"works","id":"neighbour-%d"}\n' "$i"; done >>"$tmp/poison"
dead_of() { [ "$(depth "$p" g dead)" = 1 ]; }
down() { ! alive "$1" || dead_of; }
crashes=0
for n in 1 2 3 4; do
	worker "poisoned$n" "$p" --group g --max-jobs 10 -- "$tmp/handler"
	[ $n != 1 ] || penstock publish "$p" --ndjson <"$tmp/poison" >/dev/null 2>&1
	until_true 40 down "$pid"
	if alive "$pid"; then break; fi
	crashes=$((crashes + 1))
done
same "a job that kills its worker kills three" 3 "$crashes"
wait_for "and then it is dead itself" 30 dead_of
same "with the reason" crashed "$(reason "$p" g poison)"
wait_for "its neighbours complete" 30 drained "$p" g
same "all nine of them" 9 "$(distinct "$p g works")"
stop "$pid"
same "the worker that buried it ends with exit status 0" 0 "$status"
check "purge it" penstock dead purge "$p" g --all --yes
unset PENSTOCK_LEASE

# ---- Redis is full, and connections break

if [ -z "$TEST_REDIS" ]; then
	f=$run-full
	for i in $(seq 300); do printf '{"type":"works","data":%d}\n' "$i"; done | penstock publish "$f" --ndjson >/dev/null 2>&1
	for i in $(seq 5); do printf '{"type":"fails","id":"full-%d"}\n' "$i"; done | penstock publish "$f" --ndjson >/dev/null 2>&1
	"${redis[@]}" CONFIG SET maxmemory 1 >/dev/null
	out=$(penstock publish "$f" works 2>&1)
	same "at maxmemory publishing fails: exit status 1" 1 $?
	has "since the stream is full" "stream is full" "$out"
	"${redis[@]}" CONFIG SET maxmemory 0 >/dev/null
	worker fuller "$f" --group g -- "$tmp/handler" # its groups have to be made before memory is short
	"${redis[@]}" CONFIG SET maxmemory 1 >/dev/null
	wait_for "at maxmemory a worker drains the stream" 30 drained "$f" g
	"${redis[@]}" CONFIG SET maxmemory 0 >/dev/null
	same "each job ran" "305" "$(( $(runs "$f g works") + $(distinct "$f g fails") ))"
	same "and failed ones went to the dead letters" 5 "$(depth "$f" g dead)"
	check "purge them" penstock dead purge "$f" g --all --yes

	for i in $(seq 600); do printf '{"type":"works","data":"cut-%d."}\n' "$i"; done >"$tmp/cut"
	penstock publish "$f" --ndjson <"$tmp/cut" >/dev/null 2>&1
	for _ in $(seq 8); do
		"${redis[@]}" CLIENT KILL TYPE normal >/dev/null
		sleep 0.1
	done
	wait_for "connections break again and again, and all jobs end" 60 drained "$f" g
	same "each has run" 600 "$(grep -o "^$f g works .*cut-[0-9]*\." "$RUNS" | grep -o 'cut-.*' | sort -u | wc -l | tr -d ' ')"
	same "and the stream is empty" 0 "$("${redis[@]}" XLEN "$f")"
	stop "$pid"
	same "the worker ends with exit status 0" 0 "$status"
	same "and has left its group" 0 "$(depth "$f" g workers)"
else
	left_out "at maxmemory, and connections break"
fi

# ---- dev

# dev_adds_up WHERE ARG…: 5,000 jobs, what dev says of them, and what its handlers wrote to a file
dev_adds_up() {
	local where=$1 out status
	shift
	out=$(timeout 120 "$bin" dev --jobs 5000 --json --count-file "$tmp/count" "$@" 2>"$tmp/dev.err")
	status=$?
	if [ $status = 0 ]; then ok "dev --jobs 5000, $where: exit status 0"; else not_ok "dev --jobs 5000, $where: exit status 0" "$status: $(cat "$tmp/dev.err")"$'\n'"$out"; fi
	out=$(jq -s last <<<"$out")
	same "published = completed + dead" "5000 5000" "$(jq -r '"\(.published) \(.completed + .dead)"' <<<"$out")"
	same "some failed and came back, some are dead" true "$(jq -r '.retries > 0 and .dead > 0' <<<"$out")"
	same "its handlers ran as often as it says" "$(jq -r .runs <<<"$out")" "$(wc -l <"$tmp/count" | tr -d ' ')"
	same "each of 5,000 jobs ran" 5000 "$(awk '{ print $1, $2 }' "$tmp/count" | sort -u | wc -l | tr -d ' ')"
	same "and succeeded once at most" "" "$(awk '$NF == "ok" { print $1, $2 }' "$tmp/count" | sort | uniq -d | head -3)"
	same "as often as it says" "$(jq -r .completed <<<"$out")" "$(grep -c ' ok$' "$tmp/count")"
	rm -f "$tmp/count"
}

(
	unset REDIS_URL
	dev_adds_up "a Redis of its own"
	echo "$passed $failed" >"$tmp/counts"
)
read -r passed failed <"$tmp/counts"
others() { our_keys | grep -v -e ':job:' -e "^{$run.*}:upkeep$" | sort; }
before=$(others)
dev_adds_up "on this Redis" --redis "$server"
same "it has left nothing there" "" "$(others | comm -13 <(cat <<<"$before") -)" # some of what was there goes by itself meanwhile

# ---- an ACL user with the rights the README lists

stop "$scheduler"
same "the scheduler ends with exit status 0" 0 "$status"

if [ -z "$TEST_REDIS" ]; then
	a=$run-acl
	acl=$(sed -n '/<!-- acl:begin -->/,/<!-- acl:end -->/p' README.md | grep -vE '^(<!--|```)' | tr '\n' ' ' | sed "s/{orders}/{$a}/g; s/~orders/~$a/")
	read -r -a words <<<"$acl"
	"${redis[@]}" ACL LOG RESET >/dev/null
	same "the README's ACL user is made" OK "$("${redis[@]}" "${words[@]}" 2>&1)"
	words[2]=penstock-scheduler
	same "and one for a scheduler" OK "$("${redis[@]}" "${words[@]}" '~*' 2>&1)"
	as=redis://penstock:secret@127.0.0.1:$port/0
	REDIS_URL=$as worker limited "$a" --group g -- "$tmp/handler"
	limited=$pid
	REDIS_URL=${as/penstock/penstock-scheduler} background limited-scheduler "$bin" scheduler
	limited_scheduler=$pid
	for type in works fails hopeless; do REDIS_URL=$as penstock publish "$a" $type --id "$type-1" >/dev/null; done
	REDIS_URL=$as check "a user with those rights publishes" penstock publish "$a" works
	REDIS_URL=$as check "a delayed one too" penstock publish "$a" works --delay 300ms
	wait_for "its worker and scheduler work" 20 equals 3 runs "$a g works"
	wait_for "retry, dead-letter and settle" 20 equals 2 depth "$a" g dead
	wait_for "and drain" 20 drained "$a" g
	REDIS_URL=$as check "dead ls" penstock dead ls "$a" g
	REDIS_URL=$as check "dead redrive" penstock dead redrive "$a" g fails-1 --yes
	wait_for "runs again" 20 equals 6 runs "$a g fails"
	wait_for "and is dead again" 20 equals 2 depth "$a" g dead
	REDIS_URL=$as check "dead purge" penstock dead purge "$a" g --all --yes
	REDIS_URL=$as penstock publish "$a" works --id for-later --delay 1h >/dev/null
	REDIS_URL=$as check "job cancel" penstock job cancel "$a" for-later
	switch=$(REDIS_URL=$as penstock switch add "$a" works --pause --json | jq -r .id)
	REDIS_URL=$as check "switch ls" penstock switch ls "$a"
	# until the worker has heard of it
	putting_off() { REDIS_URL=$as penstock publish "$a" works >/dev/null; [ "$("${redis[@]}" SCARD "{$a}:g:g:paused")" != 0 ]; }
	wait_for "a kill switch is obeyed" 20 putting_off
	REDIS_URL=$as check "switch rm" penstock switch rm "$a" "$switch"
	wait_for "and what it put off runs" 20 drained "$a" g
	REDIS_URL=$as check "stream show" penstock stream show "$a"
	REDIS_URL=$as check "check" penstock check
	stop "$limited"
	same "the worker ends with exit status 0" 0 "$status"
	same "and has left its group" 0 "$(depth "$a" g workers)"
	stop "$limited_scheduler"
	same "the scheduler ends with exit status 0" 0 "$status"
	# not needed: what go-redis says of itself, and the version that check shows
	denied=$("${redis[@]}" --json ACL LOG | jq -r '.[] | if type == "object" then . else [.[range(0; length; 2)]] end | .object' | grep -vxE 'client\|setinfo|info' | sort -u)
	same "Redis denied nothing to them" "" "$denied"
	complaints=$(grep -iE 'noperm|"level":"(WARN|ERROR)"|level=(WARN|ERROR)' "$tmp/limited.err" "$tmp/limited-scheduler.err")
	same "and neither program complains" "" "$complaints"
	"${redis[@]}" ACL DELUSER penstock penstock-scheduler >/dev/null
else
	left_out "an ACL user with the README's rights"
fi

# ---- the README's commands

if [ -z "$TEST_REDIS" ]; then # they use the stream "orders"
	block=$(sed -n '/^## Quick start: the binary/,/^## Quick start: the library/p' README.md | sed -n '/^```sh/,/^```/p' | grep -vE '^(```|go install|export REDIS_URL)')
	cat >"$tmp/readme" <<READ
set -e
trap 'kill \$(jobs -p); wait' EXIT
$block
end=\$((SECONDS + 20))
until grep -q '7} is done' "$tmp/readme.err" && grep -q '8} is done' "$tmp/readme.err"; do ((SECONDS < end)) || exit 9; sleep 0.05; done
READ
	has "the README has commands" "penstock worker orders" "$block"
	PATH=$tmp:$PATH timeout 60 bash "$tmp/readme" >"$tmp/readme.out" 2>"$tmp/readme.err"
	status=$?
	if [ $status = 0 ]; then ok "they work"; else not_ok "they work" "$status: $(cat "$tmp/readme.out" "$tmp/readme.err")"; fi
	has "and show the delayed job" "paid-8  scheduled" "$(cat "$tmp/readme.out")"
else
	left_out "the README's commands"
fi

# ---- the README's programs

if [ -z "$TEST_REDIS" ]; then # they use the stream "orders"
	shop=$tmp/shop
	mkdir "$shop"
	check "the README's programs build" go build -o "$shop/" ./docs/examples/shop/...
	addr_port=$((10000 + RANDOM % 20000))
	background web env SHOP_ADDR=127.0.0.1:$addr_port "$shop/web"
	web=$pid
	background shop-worker "$shop/worker"
	shop_worker=$pid
	background shop-scheduler "$shop/scheduler"
	shop_scheduler=$pid
	post() {
		exec 3<>"/dev/tcp/127.0.0.1/$addr_port" || return 1
		printf 'POST /paid HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s' ${#1} "$1" >&3
		timeout 5 cat <&3
		exec 3>&-
	}
	up() { (exec 3<>"/dev/tcp/127.0.0.1/$addr_port"); }
	wait_for "the web service is up" 10 up
	has "it publishes a job" "job paid-7, duplicate false" "$(post '{"order":7,"cents":1999}')"
	has "a second click stores nothing" "job paid-7, duplicate true" "$(post '{"order":7,"cents":1999}')"
	wait_for "the worker writes the invoice" 15 grep -q 'order 7: invoice over 19.99' "$tmp/shop-worker.out"
	logged() { [[ $(penstock job log "$1" "$2") == *"$3"* ]]; }
	wait_for "and says so in the job's log" 10 logged orders paid-7 "invoice over 1999 cents"
	post '{"order":-1,"cents":1}' >/dev/null
	wait_for "an order that is not there is a dead letter" 15 equals permanent reason orders billing paid--1
	check "purge it" penstock dead purge orders billing --all --yes
	for pid in "$web" "$shop_worker" "$shop_scheduler"; do
		stop "$pid"
		same "SIGTERM ends each with exit status 0" 0 "$status"
	done
else
	left_out "the README's programs"
fi

# ---- the end: what is left

worker_first=${pids[0]}
stop "$worker_first"
same "the first worker ends with exit status 0" 0 "$status"
same "no other program is left" "" "$(for p in "${pids[@]}"; do alive "$p" && echo "$p"; done)"

# The documented keys that may outlive all jobs, by name and type. Records have a time to live.
unknown='' full='' forever=''
while read -r key; do
	[ -n "$key" ] || continue
	type=$("${redis[@]}" TYPE "$key")
	case "$type $key" in
	"set penstock:streams" | "hash {"*"}:config") ;;
	"stream {"*"}:g:"*:redelivery | "stream {"*"}:g:"*:suspects | "stream {"*"}:g:"*:dead)
		[ "$("${redis[@]}" XLEN "$key")" = 0 ] || full+="$key "
		;;
	"string {"*"}:job:"* | "string {"*"}:g:"*":job:"* | "hash {"*"}:workers" | "hash {"*"}:report:"* | "hash {"*"}:g:"*":report:"* | "string {"*"}:upkeep" | "string {"*"}:g:"*:lease | "string {"*"}:g:"*:sweep)
		[ "$("${redis[@]}" PTTL "$key")" != -1 ] || forever+="$key "
		;;
	"none {"*"}:job:"* | "none {"*"}:g:"*":job:"* | "none {"*"}:workers" | "none {"*"}:report:"* | "none {"*"}:upkeep" | "none {"*"}:g:"*:lease | "none {"*"}:g:"*:sweep) ;; # it went just now
	"stream $e") ;;
	"stream "*)
		[ "$("${redis[@]}" XLEN "$key")" = 0 ] || full+="$key "
		"${redis[@]}" EXISTS "{$key}:config" | grep -q 1 || unknown+="$type:$key "
		;;
	*) unknown+="$type:$key " ;;
	esac
done < <(our_keys)
same "no key but the documented ones is left" "" "$unknown"
same "nothing is left in them, but on the events stream" "" "$full"
same "the records of finished jobs, and what workers say of themselves, go by themselves" "" "$forever"

if ((failed > 0)); then
	for log in "$tmp"/*.err; do [ ! -s "$log" ] || { printf '\n%s:\n' "${log##*/}" && tail -20 "$log"; }; done
	printf '\n'
fi
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
