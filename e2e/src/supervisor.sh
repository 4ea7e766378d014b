# usage: bash supervisor.sh DIR          owns every process of the cluster in DIR
#        bash supervisor.sh DIR clean    removes what a killed supervisor of DIR left behind
#
# Reads commands from its input, one a line, and answers each with one line:
#   start NAME          runs DIR/run/NAME.argv (an argument a line), output to DIR/log/NAME.log; answers with the pid
#   stop NAME SIGNAL    sends it and waits for the end, after 20 s with KILL
#   send NAME SIGNAL    sends it
#   alive NAME          yes or no
# The end of its input, which is the end of its owner, is the end of the cluster. Its own end, even by KILL, takes
# the processes along (pdeathsig); what the kernel does not undo by itself is then left to `clean`.
set -m            # without job control, what runs in the background has SIGINT ignored, and so have the pods
trap : HUP PIPE   # handlers, because an ignored signal is inherited
cd "$1" 2>/dev/null || exit 1

# Kills programs of the testbed that work here, and nothing else: a developer may look around. Whether there were any.
kill_rest() {
    local proc found=1
    for proc in /proc/[0-9]*; do
        case $(readlink "$proc/exe"):$(readlink "$proc/cwd") in
            */kubestack-testbed/bin/*:"$PWD" | */kubestack-testbed/bin/*:"$PWD"/*)
                kill -KILL "${proc#/proc/}"
                found=0
                ;;
        esac
    done 2>/dev/null
    return $found
}

clean() {
    local root tries
    for ((tries = 0; tries < 200; tries++)); do
        kill_rest || break
        sleep 0.05
    done
    # Mounts, addresses and processes of a node go with its namespaces; a bridge and cgroups stay.
    if [ -s node/bridge ]; then
        ip link del "$(<node/bridge)" 2>/dev/null
        for root in /sys/fs/cgroup /sys/fs/cgroup/*; do
            root+=/$(<node/bridge)
            for ((tries = 0; tries < 200; tries++)); do
                [ -d "$root" ] || break
                find "$root" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.05
            done
        done
    fi
    [ -n "${KUBESTACK_TESTBED_KEEP:-}" ] || rm -rf "$PWD"
}

exec 8>>lock
flock -w 30 8 || { echo "another process holds $PWD/lock" >&2; exit 1; }
[ "${2:-}" != clean ] || { clean; exit; }
exec 2>>log/supervisor.log
echo ready

declare -A pids
alive() { [ -n "${pids[$1]:-}" ] && kill -0 "${pids[$1]}" 2>/dev/null; }
signal() {
    local pid=${pids[$1]}
    # A node's first process, not the `unshare` before it: that one ends once nobody is left in the namespaces.
    [ "$1" != node ] || pid=$(<"/proc/$pid/task/$pid/children")
    kill -s "$2" $pid
}
stop() {
    alive "$1" || return
    signal "$1" "$2"
    local tries
    for ((tries = 0; tries < 400; tries++)); do
        alive "$1" || return
        sleep 0.05
    done
    signal "$1" KILL
    wait "${pids[$1]}"
}

while read -r verb name how; do
    case $verb in
        start)
            if alive "$name"; then echo "error: $name runs already"; continue; fi
            mapfile -t argv <"run/$name.argv"
            setpriv --pdeathsig KILL -- "${argv[@]}" >>"log/$name.log" 2>&1 </dev/null 8>&- &
            pids[$name]=$!
            echo "${pids[$name]}"
            ;;
        stop) stop "$name" "$how"; echo stopped ;;
        send) if alive "$name" && signal "$name" "$how"; then echo sent; else echo "error: $name does not run"; fi ;;
        alive) if alive "$name"; then echo yes; else echo no; fi ;;
        *) echo "error: no command $verb" ;;
    esac
done

for name in "${!pids[@]}"; do
    stop "$name" KILL
done
clean
