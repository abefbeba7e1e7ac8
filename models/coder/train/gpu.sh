#!/bin/sh
# A leg on a machine that is reached through a narrow link, has no network, and runs one short command at a time. README.md says in what order.
#   gpu.sh load FROM_DIR TO_DIR MIB NUMBER            put load NUMBER (from 0) of a folder's files into TO_DIR, instead of an earlier load
#   gpu.sh stage FROM_DIR TO_DIR                      there: add what has arrived to a folder that outlives the next arrival
#   gpu.sh start DATA_DIR PARTS_DIR|- RUN_DIR [...]   there: unpack, begin a leg in the background (options of leg.py), show its smoke test
#   gpu.sh poll RUN_DIR SECONDS                       there: wait so long at most, or until the leg has ended; show how it stands
#   gpu.sh stop RUN_DIR                               there: save and end now
#   gpu.sh bring RUN_DIR TO_DIR MIB NUMBER [PROFILE]  there: load 0 packs the newest checkpoint; each load puts its files into TO_DIR
# PYTHON may be set in the environment.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
usage() { sed -n '2,9p' "$0" >&2; exit 2; }

alive() { [ -f "$1/pid" ] && kill -0 "$(cat "$1/pid")" 2> /dev/null; }

show() {
  # errors of a compiler can be long
  tail -n "$2" "$1/leg.out" | cut -c1-600
  if alive "$1"; then echo "-- running"; else echo "-- ended: $(tail -n 1 "$1/leg.out" | cut -c1-200)"; fi
}

load() {
  names=$("$python" "$here/parts.py" group "$1" "$3" "$4")
  mkdir -p "$2"
  rm -rf "${2:?}/tokenizer"
  rm -f "$2"/part-*.bin "$2"/manifest.json "$2"/data.json "$2"/*.xz
  [ -n "$names" ] || { echo "load $4: there is none"; return; }
  for name in $names; do
    mkdir -p "$2/$(dirname "$name")"
    cp "$1/$name" "$2/$name"
  done
  echo "load $4: $(du -sk "$2" | cut -f1) KiB: $(echo $names)"
}

[ $# -ge 2 ] || usage
verb=$1
shift
case $verb in
  load)
    [ $# -eq 4 ] || usage
    load "$@"
    ;;
  stage)
    [ $# -eq 2 ] || usage
    mkdir -p "$2"
    cp -r "$1"/. "$2"/
    ls -l "$2"
    ;;
  start)
    [ $# -ge 3 ] || usage
    data=$1 parts=$2 run=$3
    shift 3
    mkdir -p "$run"
    ! alive "$run" || { echo "$run: a leg is running already" >&2; exit 1; }
    [ "$parts" = - ] || [ -f "$run/checkpoint.pt" ] || "$python" "$here/parts.py" unpack "$parts" "$run"
    # a new session: the leg outlives the command that began it
    setsid "$python" "$here/leg.py" --data "$data" --out "$run" "$@" > "$run/leg.out" 2>&1 < /dev/null &
    echo $! > "$run/pid"
    # until the first training line, which follows the smoke test; its table is what one wants to see first
    for _ in $(seq 1 240); do
      alive "$run" || break
      ! grep -q '"kind": "train"' "$run/leg.out" || break
      sleep 1
    done
    show "$run" 60
    alive "$run" || grep -q '"kind": "done"' "$run/leg.out" || exit 1
    ;;
  poll)
    [ $# -eq 2 ] || usage
    until=$(($(date +%s) + $2))
    while alive "$1" && [ "$(date +%s)" -lt "$until" ]; do sleep 1; done
    show "$1" 25
    ;;
  stop)
    [ $# -eq 1 ] || usage
    ! alive "$1" || kill -TERM "$(cat "$1/pid")"
    for _ in $(seq 1 90); do
      alive "$1" || break
      sleep 1
    done
    show "$1" 4
    ;;
  bring)
    [ $# -ge 4 ] || usage
    [ "$4" != 0 ] || "$python" "$here/parts.py" pack "$1" "$1/parts" --profile "${5:-trip}"
    load "$1/parts" "$2" "$3" "$4"
    ;;
  *) usage ;;
esac
