# What `up`, `down` and `component` have in common: where a cluster's things are, and how its programs are run. Sourced, not run.
#
# A cluster is a directory of its caller's, DIR, and a number N that is free on this host. From N follow the names of whatever
# lies outside of DIR: the network namespace and the veth `tk8s-N`, the control group `tk8s-N`, the addresses 10.(80+N).0.0/16.
# The programs and the containers also share a mount namespace, held by DIR/namespaces/mount. All that is mounted for pods is
# mounted in there and goes with it, and the few paths that containerd and kubelet cannot be told to have elsewhere are covered.
#
# DIR/namespaces/mount is the first thing made and the last removed. While it is mounted, N is this cluster's; when it isn't (the
# machine was restarted, say), N may be another cluster's by now, and nothing outside of DIR is touched.
# shellcheck shell=bash disable=SC2034

readonly COMPONENTS=(etcd containerd apiserver controller-manager scheduler kubelet proxy)
readonly NODE=node
readonly PAUSE_IMAGE=tombolo.test/pause:1
readonly CONTAINERD_SOCKET=/run/containerd/containerd.sock # as seen in the cluster's mount namespace
readonly NUMBER_MAX=99
readonly WAIT_SECONDS_MAX=120 # for each thing waited for; on an idle machine each takes less than ten
readonly STOP_KINDLY_SECONDS_MAX=5 # the API server would wait a minute for its watches to end
readonly STOP_SECONDS_MAX=30
readonly POLL_SECONDS=0.2
readonly LOG_LINES_SHOWN=20

say() {
    echo "$*" >&2
}

die() {
    say "error: $1"
    [[ -z ${2:-} ]] || say "hint: $2"
    exit 3
}

misuse() {
    say "error: $1"
    exit 2
}

# Parses the caller's directory. Its name goes unquoted into configuration files, so it has to be plain.
use_directory() {
    dir=$(realpath -e "$1" 2>/dev/null) || misuse "there is no directory $1"
    [[ -d $dir && $dir =~ ^(/[A-Za-z0-9._+-]+)+$ ]] || misuse "$dir is not a directory of a plain name"
}

# Everything that follows from the cluster's number.
use_number() {
    number=$1
    name=tk8s-$number
    local network=10.$((80 + number))
    cluster_network=$network.0.0/16
    host_ip=$network.0.1
    node_ip=$network.0.2
    pod_network=$network.128.0/24
    service_network=$network.192.0/20
    api_service_ip=$network.192.1
    netns=/run/netns/$name
}

# Reads what `up` wrote down; false when there is no cluster that can be running.
use_cluster() {
    is_held && [[ -r $dir/number && -r $dir/bin ]] || return 1
    use_number "$(<"$dir/number")"
    bin=$(<"$dir/bin")
}

is_held() {
    [[ $(stat -f -c %T "$dir/namespaces/mount" 2>/dev/null) == nsfs ]]
}

# Not `ip netns exec`: that mounts a new /sys, in which there are no control groups.
inside() {
    nsenter --mount="$dir/namespaces/mount" --net="$netns" -- "$@"
}

# Go's programs obey HTTPS_PROXY, and a proxy on the way out of a machine knows nothing of addresses within.
kubectl() {
    NO_PROXY='*' "$bin/kubectl" --kubeconfig="$dir/admin.kubeconfig" "$@"
}

# ---- control groups

# Where hierarchies are mounted: one place with version 2, one for each controller with version 1.
cgroup_hierarchies() {
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        echo /sys/fs/cgroup
        return
    fi
    local hierarchy
    for hierarchy in /sys/fs/cgroup/*/; do
        [[ ! -e $hierarchy/cgroup.procs ]] || echo "${hierarchy%/}"
    done
}

# The one hierarchy by which it is known which processes are the cluster's. Of version 1's, `pids` is the one
# whose accounts nobody misses: a caller's limits of memory go on holding for the programs.
cgroup_of_processes() {
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        echo "/sys/fs/cgroup/$name"
    else
        echo "/sys/fs/cgroup/pids/$name"
    fi
}

# Every process of the cluster, containers included. The kernel keeps this list, so no reused pid gets into it.
processes() {
    find "$(cgroup_of_processes)" -name cgroup.procs -exec cat {} + 2>/dev/null || true
}

# ---- components

# Sets `command` to what runs the component.
set_command() {
    local pki=$dir/pki
    case $1 in
        etcd)
            command=(etcd
                --data-dir="$dir/etcd"
                --listen-client-urls=http://127.0.0.1:2379
                --advertise-client-urls=http://127.0.0.1:2379
                --listen-peer-urls=http://127.0.0.1:2380
                --initial-advertise-peer-urls=http://127.0.0.1:2380
                --initial-cluster=default=http://127.0.0.1:2380
                --unsafe-no-fsync # the data needn't outlive the machine, only the process
            )
            ;;
        containerd)
            command=(containerd --config="$dir/config/containerd.toml")
            ;;
        apiserver)
            command=("$bin/kube-apiserver"
                --etcd-servers=http://127.0.0.1:2379
                --advertise-address="$node_ip"
                --bind-address=0.0.0.0
                --secure-port=6443
                --service-cluster-ip-range="$service_network"
                --client-ca-file="$pki/ca.crt"
                --tls-cert-file="$pki/apiserver.crt"
                --tls-private-key-file="$pki/apiserver.key"
                # No extension speaks for users here, but the other programs complain without end while none is allowed to.
                --requestheader-client-ca-file="$pki/ca.crt"
                --requestheader-allowed-names=front-proxy-client
                --requestheader-username-headers=X-Remote-User
                --kubelet-certificate-authority="$pki/ca.crt"
                --kubelet-client-certificate="$pki/admin.crt"
                --kubelet-client-key="$pki/admin.key"
                --kubelet-preferred-address-types=InternalIP
                --service-account-issuer=https://kubernetes.default.svc
                --service-account-key-file="$pki/service-accounts.pub"
                --service-account-signing-key-file="$pki/service-accounts.key"
                --authorization-mode=Node,RBAC
                --allow-privileged=true
                # Admission is the default one: PodSecurity, ResourceQuota, LimitRanger, ServiceAccount and the rest.
            )
            ;;
        controller-manager)
            command=("$bin/kube-controller-manager"
                --kubeconfig="$dir/config/controller-manager.kubeconfig"
                --authentication-kubeconfig="$dir/config/controller-manager.kubeconfig"
                --authorization-kubeconfig="$dir/config/controller-manager.kubeconfig"
                --service-account-private-key-file="$pki/service-accounts.key"
                --root-ca-file="$pki/ca.crt"
                --use-service-account-credentials=true
                --leader-elect=false
                --bind-address=127.0.0.1
            )
            ;;
        scheduler)
            command=("$bin/kube-scheduler"
                --kubeconfig="$dir/config/scheduler.kubeconfig"
                --authentication-kubeconfig="$dir/config/scheduler.kubeconfig"
                --authorization-kubeconfig="$dir/config/scheduler.kubeconfig"
                --leader-elect=false
                --bind-address=127.0.0.1
            )
            ;;
        kubelet)
            command=("$bin/kubelet"
                --config="$dir/config/kubelet.yaml"
                --kubeconfig="$dir/config/kubelet.kubeconfig"
                --hostname-override="$NODE"
                --node-ip="$node_ip"
            )
            ;;
        proxy)
            command=("$bin/kube-proxy" --config="$dir/config/proxy.yaml" --hostname-override="$NODE")
            ;;
        *)
            misuse "there is no component $1 (there are: ${COMPONENTS[*]})"
            ;;
    esac
}

# Whether the component says of itself that it works.
is_ready() {
    local pki=$dir/pki
    case $1 in
        etcd) ask http://127.0.0.1:2379/health ;;
        containerd) inside ctr --address "$CONTAINERD_SOCKET" --timeout 5s version ;;
        apiserver) ask --cacert "$pki/ca.crt" --cert "$pki/admin.crt" --key "$pki/admin.key" "https://$node_ip:6443/readyz" ;;
        # These two make up a certificate at each start.
        controller-manager) ask --insecure https://127.0.0.1:10257/healthz ;;
        scheduler) ask --insecure https://127.0.0.1:10259/healthz ;;
        kubelet) ask http://127.0.0.1:10248/healthz ;;
        proxy) ask http://127.0.0.1:10256/livez ;;
    esac &>/dev/null
}

ask() {
    inside curl --fail --silent --noproxy '*' --max-time 5 "$@"
}

# Starts a component and doesn't wait for it. It outlives the caller, in a session of its own.
launch() {
    local command
    set_command "$1"
    (
        echo "$BASHPID" >"$(cgroup_of_processes)/programs/cgroup.procs"
        export NO_PROXY='*' # see kubectl
        exec setsid nsenter --mount="$dir/namespaces/mount" --net="$netns" -- "${command[@]}"
    ) </dev/null >>"$dir/log/$1.log" 2>&1 &
    echo "$! $(started_at $!)" >"$dir/pid/$1"
    disown # else the shell remarks on its end
}

# Waits until a component is ready.
await() {
    local deadline=$((SECONDS + WAIT_SECONDS_MAX))
    until is_ready "$1"; do
        is_running "$1" || fail "$1" "exited"
        ((SECONDS < deadline)) || fail "$1" "was not ready within $WAIT_SECONDS_MAX s"
        sleep "$POLL_SECONDS"
    done
}

# Ends a component: kindly at first, then by force.
stop() {
    local pid started signal=TERM deadline=$((SECONDS + STOP_KINDLY_SECONDS_MAX))
    while is_running "$1"; do
        read -r pid started <"$dir/pid/$1"
        kill "-$signal" "$pid" 2>/dev/null || true
        until ! is_running "$1" || ((SECONDS >= deadline)); do
            sleep "$POLL_SECONDS"
        done
        [[ $signal == TERM ]] || ! is_running "$1" || fail "$1" "does not end"
        signal=KILL
        deadline=$((SECONDS + STOP_SECONDS_MAX))
    done
}

# A pid alone may have become another program's. With the moment of its start it is the same process, or none.
is_running() {
    local pid started
    read -r pid started 2>/dev/null <"$dir/pid/$1" && [[ -n $started && $(started_at "$pid") == "$started" ]]
}

# The process's start in ticks since the machine's (proc_pid_stat(5), field 22); nothing if it has ended.
started_at() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    # The second field is the program's name, which may hold spaces and brackets; the third is the state.
    local -a fields
    read -r -a fields <<<"${stat##*) }"
    [[ ${fields[0]} == [ZX] ]] || echo "${fields[19]}"
}

fail() {
    say "error: $1 $2"
    if [[ -r $dir/log/$1.log ]]; then
        say "the end of $dir/log/$1.log:"
        tail -n "$LOG_LINES_SHOWN" "$dir/log/$1.log" >&2
    fi
    exit 3
}
