#!/usr/bin/env bash
# A worker with curl and jq alone: runs a command for each run of one stage, one at a time.
#
#   examples/worker.sh [-u URL] [-p PIPELINE] [-s STAGE] [-l LEASE_SECONDS] COMMAND [ARGUMENT...]
#
# The command gets the run as JSON on standard input, and BATON_RUN_ID, BATON_REPOSITORY and BATON_ATTEMPT. Its exit code
# decides: 0 is done, 65 has failed for good, all others have failed and are tried again while attempts are left. The end of what
# it prints becomes part of the run's output or error. It is asked to end (SIGTERM, later SIGKILL, its children too) when the run
# is canceled or its lease is lost, and when this script is: then the run is handed back, which costs no attempt.
set -uo pipefail

url=http://127.0.0.1:8080 pipeline=ci stage=initialize lease=30
while getopts u:p:s:l: option; do
  case $option in
    u) url=$OPTARG ;;
    p) pipeline=$OPTARG ;;
    s) stage=$OPTARG ;;
    l) lease=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
if (($# == 0)); then
  echo "usage: $0 [-u URL] [-p PIPELINE] [-s STAGE] [-l LEASE_SECONDS] COMMAND [ARGUMENT...]" >&2
  exit 2
fi
for tool in curl jq; do
  command -v "$tool" >/dev/null || { echo "$tool is missing" >&2 && exit 2; }
done

readonly wait_seconds=5 final_code=65 tail_bytes=4000
worker=sh-${HOSTNAME:0:90}-$$
stopping='' command_pid=''
dir=$(mktemp -d) || exit 1
trap 'rm -rf -- "$dir"' EXIT
trap stop INT TERM

stop() {
  stopping=yes
  [[ -z $command_pid ]] || end_command "$command_pid" &
}

# Ends a command with all that it has started: asks, and kills what is left after five seconds.
end_command() {
  kill -TERM -- "-$1" 2>/dev/null || return 0
  for _ in {1..50}; do
    kill -0 -- "-$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL -- "-$1" 2>/dev/null
}

# One call; a lost connection looks like an error of the server. Ctrl-C reaches curl too, which must not lose the answer.
post() { # SERVICE/METHOD BODY TIMEOUT
  (
    trap '' INT TERM
    exec curl -sS --max-time "$3" -H 'Content-Type: application/json' -d @- "$url/baton.v1.$1" <<<"$2"
  ) || echo '{"code": "unavailable", "message": "no answer"}'
}

# Calls until there is an answer, which the request id and the lease token make harmless. Leaves it in $answer; fails when
# the call is refused, or when the script has to end.
call() { # SERVICE/METHOD BODY
  local code delay=1 tries=0
  while :; do
    answer=$(post "$1" "$2" $((wait_seconds + 10)))
    code=$(jq -r '.code // empty' <<<"$answer" 2>/dev/null) || code=unavailable
    case $code in
      '') return 0 ;;
      unavailable | resource_exhausted | deadline_exceeded | internal | unknown | canceled) ;;
      *) return 1 ;;
    esac
    echo "$worker: $1: $code, trying again" >&2
    [[ -z $stopping ]] || ((++tries < 4)) || return 1
    sleep "$delay.$((RANDOM % 10))"
    delay=$((delay < 8 ? delay * 2 : 15))
  done
}

claim_request() { # WAIT_SECONDS
  jq -cn --arg pipeline "$pipeline" --arg stage "$stage" --arg worker "$worker" --arg id "$RANDOM-$RANDOM-$(date +%s%N)" \
    --arg wait "$1s" --arg lease "${lease}s" \
    '{pipeline: $pipeline, stage: $stage, workerId: $worker, requestId: $id, wait: $wait, leaseDuration: $lease}'
}

# Extends the lease after each third of it. Ends the command, and notes why, when it has to stop: at the latest before the lease
# can end by this script's clock.
renew() { # LEASE_JSON COMMAND_PID SINCE
  local since=$3 sent outcome
  while :; do
    sleep "$(((lease + 2) / 3))"
    sent=$SECONDS
    outcome=$(post JobService/ExtendLeases "{\"leases\": [$1]}" $(((lease + 5) / 6)) 2>/dev/null | jq -r '.results[0].outcome // empty')
    case $outcome in
      LEASE_OUTCOME_OK) since=$sent && continue ;;
      LEASE_OUTCOME_CANCEL_REQUESTED) echo canceled >"$dir/why" ;;
      LEASE_OUTCOME_LEASE_LOST) echo lost >"$dir/why" ;;
      *) ((SECONDS - since > lease / 2)) || continue && echo lost >"$dir/why" ;;
    esac
    end_command "$2"
    return
  done
}

# Runs the command for one run, and leaves the report in $report.
work() { # CLAIM SINCE COMMAND...
  local claim=$1 since=$2 code renew_pid status why held
  shift 2
  held=$(jq -c '{runId: .run.id, leaseToken}' <<<"$claim")
  jq '.run' <<<"$claim" >"$dir/run"
  : >"$dir/why"
  set -m # each in a process group of its own
  BATON_RUN_ID=$(jq -r '.id' "$dir/run") BATON_REPOSITORY=$(jq -r '.repository // ""' "$dir/run") \
    BATON_ATTEMPT=$(jq -r '.attempt' "$dir/run") "$@" <"$dir/run" >"$dir/output" 2>&1 &
  command_pid=$!
  renew "$held" "$command_pid" "$since" &
  renew_pid=$!
  set +m
  [[ -z $stopping ]] || stop
  while :; do # a signal ends the wait, and not the command at once
    wait "$command_pid"
    code=$?
    kill -0 "$command_pid" 2>/dev/null || break
  done
  kill -KILL -- "-$command_pid" 2>/dev/null # what it has left in the background
  command_pid=''
  kill -TERM -- "-$renew_pid" 2>/dev/null
  wait "$renew_pid" 2>/dev/null
  why=$(<"$dir/why")
  if [[ -n $why ]]; then status=$why; elif [[ -n $stopping ]]; then status=handed_back; else status=$((code)); fi
  report=$(tail -c "$tail_bytes" "$dir/output" | tr -d '\000' | jq -Rsc --argjson words "$words" --argjson held "$held" \
    --arg status "$status" --argjson final "$final_code" '
      $held + if $status == "canceled" then {status: $words.canceled}
      elif $status == "handed_back" or $status == "lost" then {status: $words.waiting}
      elif $status == "0" then {status: $words.done, output: {exit_code: 0, output: .}}
      else {
        status: $words.error, output: {exit_code: ($status | tonumber), output: .},
        error: {code: "EXIT_\($status)", message: .[-2000:], retryable: ($status != ($final | tostring))}
      } end')
}

call PipelineService/GetPipeline "$(jq -cn --arg name "$pipeline" '{name: $name}')" || { jq -r '.message' <<<"$answer" >&2 && exit 1; }
words=$(jq -ce --arg stage "$stage" '.pipeline as $p | .pipeline.stages[] | select(.name == $stage)
  | {done: .doneStatus, waiting: .waitingStatus, error: $p.errorStatus, canceled: $p.canceledStatus}' <<<"$answer") ||
  { echo "pipeline $pipeline has no stage $stage" >&2 && exit 1; }
echo "$worker waits for runs"
while [[ -z $stopping ]]; do
  since=$SECONDS
  # Let end at a stop too: it may bring a run, which is then handed back.
  call JobService/ClaimNext "$(claim_request "$wait_seconds")" || { jq -r '.message' <<<"$answer" >&2 && exit 1; }
  while claim=$(jq -ce '.claims[0] // empty' <<<"$answer"); do
    work "$claim" "$since" "$@"
    since=$SECONDS
    [[ -n $stopping ]] || report=$(jq -c --argjson next "$(claim_request 0)" '. + {claimNext: $next}' <<<"$report")
    if call JobService/UpdateStatus "$report"; then
      jq -r '"\(.run.id) \(.run.status)"' <<<"$answer"
    else
      echo "$(jq -r '.runId' <<<"$report"): $(jq -r '.message' <<<"$answer")" >&2
      break
    fi
  done
done
