# usage: bash node.sh ADDRESS GATEWAY CONTAINERD KUBELET FLAG…
# Runs a node in the current directory: pid 1 of pid, mount and network namespaces of its own. Whatever ends this
# process ends every pod, and the kernel takes mounts, addresses and firewall rules along.
set -meuo pipefail
address=$1 gateway=$2 containerd=$3 kubelet=$4
shift 4
PATH=$(dirname "$containerd"):$PATH # its shim

# kubelet, containerd and CNI plugins write to fixed places below these; the host's stay as they are.
dir=$PWD
mount -t tmpfs tmpfs /run
for tree in /var /opt; do
    mkdir -p "/run/over$tree/"{upper,work}
    mount -t overlay -o "lowerdir=$tree,upperdir=/run/over$tree/upper,workdir=/run/over$tree/work" overlay "$tree"
done
mkdir -p "$dir" && mount --bind . "$dir" # the true one again, should it be below one of these
cd "$dir"
mount --make-rshared / # volumes that the kubelet mounts must reach the pods

until ip link show eth0 &>/dev/null; do sleep 0.05; done # moved in from outside
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
ip route add default via "$gateway"

"$containerd" --config node/containerd.toml >>log/containerd.log 2>&1 </dev/null &
# A kubelet that finds no runtime gives up; as on any node, it is started again.
while sleep 0.2; do "$kubelet" "$@" || true; done >>log/kubelet.log 2>&1 </dev/null &
wait -n # one alone is no node
