// SPDX-License-Identifier: Apache-2.0

package metrics

// A family is one metric with all its label values.
type family int

const (
	up family = iota
	info
	queues
	flowCapacity
	leaseHeld
	serviceArmed
	shieldUp

	packets
	synAcks
	handshakesCompleted
	handshakesRefused
	handshakeDuration
	keyGeneration
	keysAccepted
	keyAge
	keyFileLoads
	keyFailures
	listEntries
	listFailures

	connections
	connectionsOpened
	connectionsClosed
	flowsSwept
	segments
	payloadBytes
	pureAcks
	retransmits
	resets
	noConnection
	leftAlone
	icmpErrors
	icmpRefused
	strays
	badFrames
	bufferBytes
	bufferRefusals
	bufferFull
	transmitStalls
	transmitErrors

	queueFrames
	queueBytes
	queueDropped
	queueRingEmpty
	queueInvalid
	queueSyscalls

	familyCount
)

// families say what each metric means, and what to do when it grows. The prefix xdptcp_ and the
// label interface are common to all. Names and labels are an interface: dashboards keep them.
var families = [familyCount]struct {
	name   string
	labels []string
	help   string
}{
	up: {"up", nil,
		"1 if this scrape could read the XDP program's counters, else 0. At 0 the packet and handshake counters are " +
			"missing: see the log; the counters' map was removed or may not be read."},
	info: {"info", []string{"mode", "zero_copy", "version"},
		"Always 1; the labels say what is running. mode=\"generic\" means that the driver has no XDP of its own and each " +
			"packet costs an skb: a flood will hurt. Use another driver, or fewer queues or a smaller MTU if that is why it refused."},
	queues: {"queues", nil,
		"RX queues that have an AF_XDP socket: none where all services are the kernel's. Connections of any other queue get no answer: their packets are dropped with reason no_socket."},
	flowCapacity: {"flow_table_capacity", nil,
		"Connections that XDP's flow table can hold, for each of IPv4 and IPv6."},
	leaseHeld: {"lease_held", nil,
		"1 while this process vouches for itself to XDP. At 0 all packets pass to the kernel: the engine is not healthy (the " +
			"log says why), or the interface was taken over or detached."},
	serviceArmed: {"service_armed", []string{"service"},
		"1 if SYNs of the service are answered, 0 if they pass to the kernel because it was disarmed: xdptcp arm changes that."},
	shieldUp: {"shield_up", nil,
		"1 while SYNs of kernel services with --shield auto are so many that XDP answers them, on any CPU; else 0. At 1 there " +
			"is a SYN flood, or --shield-on is too low for this host's honest clients."},

	packets: {"packets_total", []string{"verdict", "reason"},
		"Packets that the XDP program saw, each counted once, by verdict (pass: to the kernel; tx: answered in place; " +
			"redirect: to the engine; drop: refused) and reason. no_listener and not_assigned are counted again, behind " +
			"handed_over: the kernel has no listener for a kernel service, or would not take the connection."},
	synAcks: {"synacks_total", []string{"by"},
		"SYNs answered with a SYN/ACK, by who did it: xdp, or engine (on the flow of a connection that was over: " +
			"a port reused in TIME-WAIT, or after a restart). If it grows much " +
			"faster than xdptcp_handshakes_completed_total, that is a SYN flood; nothing needs to be done, it costs no memory."},
	handshakesCompleted: {"handshakes_completed_total", nil,
		"Final ACKs with a valid cookie: clients that are really at their address."},
	handshakesRefused: {"handshakes_refused_total", []string{"by", "reason"},
		"SYNs and final ACKs refused, by xdp or the engine, and why. bad_cookie, bad_timestamp: forged or very late ACKs. " +
			"expired_key: very late, or hosts of a fleet with different keys. table_full: raise the flow table's size. " +
			"backlog_full: the service accepts too slowly. no_listener: the service has stopped. no_room: the driver's headroom is too small. " +
			"denied: the lists of clients. reply_cap, rate_limited: --reply-limit, --open-limit. no_route: --reply fib found no way. " +
			"reset: an ACK without a valid cookie, answered with RST. " +
			"bad_source, bad_flags, bad_tcp, bad_checksum, land: packets that no honest client sends."},
	handshakeDuration: {"handshake_duration_seconds", nil,
		"Time from SYN/ACK to final ACK, of clients with TCP timestamps; the clock has steps of 8.4 ms. It is the network's " +
			"round trip: if it grows, look at the path and not at this host."},
	keyGeneration: {"cookie_key_generation", nil,
		"Generation, 0 to 3, of the key that cookies are made with. Hosts that share an address must agree, but for the " +
			"minutes in which a new key file is handed out."},
	keysAccepted: {"cookie_keys_accepted", nil,
		"Keys whose cookies are accepted. With a key file: all that it has, 1 to 3. Before a key is activated, each host must " +
			"show that it has read the file with that key in it."},
	keyAge: {"cookie_key_age_seconds", nil,
		"How long this process has used the key of xdptcp_cookie_key_generation. With a key file it grows until the operator " +
			"activates another key: rotate at least as often as your other secrets."},
	keyFileLoads: {"key_file_loads_total", nil,
		"Times that the key file changed and its keys were taken. 0 without a key file."},
	keyFailures: {"cookie_key_failures_total", nil,
		"Times that new keys were not taken: the changed key file was refused, or the rotation failed. The old keys stay. The " +
			"log says why; each bad version of the file counts once."},

	listEntries: {"list_entries", []string{"list"},
		"Addresses and prefixes on the list of clients that may connect (allow) and on that of those that may not (deny). " +
			"Missing if neither list was given. Who they keep out is in xdptcp_packets_total, reason denied."},
	listFailures: {"list_failures_total", nil,
		"Times that a list of clients changed, and could not be taken: the old one goes on, and the log says why."},

	connections: {"connections", []string{"state"},
		"Connections that the engine has: open, or waiting (closed and kept for old duplicates, TIME-WAIT and the like). " +
			"Both kinds have a place in the flow table."},
	connectionsOpened: {"connections_opened_total", nil,
		"Connections that the engine has made and given to a listener."},
	connectionsClosed: {"connections_closed_total", []string{"how"},
		"Connections that ended: clean (FINs), reset (by the peer), timeout (the peer fell silent), aborted (by us, with " +
			"data lost: look at the service)."},
	flowsSwept: {"flows_swept_total", nil,
		"Flows deleted because no connection was ever made of them: their client fell silent after a final ACK that was " +
			"lost. If it grows, see xdptcp_queue_dropped_frames_total and backlog_full."},
	segments: {"segments_total", []string{"direction"},
		"TCP segments that the engine received (in) and sent (out)."},
	payloadBytes: {"payload_bytes_total", []string{"direction"},
		"TCP payload that the engine received (in) and sent (out), retransmissions included."},
	pureAcks: {"pure_acks_total", nil,
		"Segments sent that carry nothing but an acknowledgment. Compare with xdptcp_segments_total: near one per request " +
			"says that the service answers slower than the delayed-ACK timer."},
	retransmits: {"retransmitted_segments_total", nil,
		"Segments sent again. If it grows faster than the segments, packets are " +
			"lost on the path to the clients, or this host's transmit queue overflows."},
	resets: {"resets_sent_total", nil,
		"RSTs sent: to segments of no connection, and for connections aborted."},
	noConnection: {"segments_without_connection_total", nil,
		"Segments of flows that the engine does not have: connections that ended, or that a restart cut off. Beyond a " +
			"short burst after a restart it should hardly grow."},
	leftAlone: {"segments_left_to_successor_total", nil,
		"Segments of no connection that came while this process was ending or being replaced. They are not answered: the " +
			"client's next try is the successor's, or the kernel's. Stays 0 otherwise."},
	icmpErrors: {"icmp_errors_total", []string{"kind"},
		"ICMP errors from the path about segments in flight: unreachable, time_exceeded, parameter_problem (noted only; the " +
			"connection goes on), too_big (the connection's segments become smaller). A steady growth of too_big says that a hop " +
			"has a smaller MTU than this interface: lower the MTU here, or that of the route."},
	icmpRefused: {"icmp_errors_refused_total", []string{"reason"},
		"ICMP errors that were not believed: checksum, no_connection, sequence (about a segment that is not in flight), mtu " +
			"(smaller than any path of today). Some are merely late; many are an attack (RFC 5927), which did no harm."},
	strays: {"stray_frames_total", []string{"outcome"},
		"Frames that came on another queue than their connection's, and were handed over to its shard, or lost because too " +
			"many waited. A steady growth says that flows move between queues: look at the NIC's RSS, or the sender's CPUs on veth."},
	bufferBytes: {"buffer_bytes", nil,
		"Memory that all connections together hold in send and receive buffers."},
	bufferRefusals: {"buffer_refusals_total", nil,
		"Times that the bound on buffer memory was met: writes waited, or received data was dropped for the peer to send " +
			"again. If it grows, readers are too slow for the memory that the engine may have."},
	bufferFull: {"connection_buffer_full_total", []string{"buffer"},
		"Times that a connection met a bound of its own: send (a write waited for the client to acknowledge: normal for bulk), " +
			"receive (segments beyond the window: the service reads slowly, and the client asks again and again), out_of_order " +
			"(segments not kept: a path that loses much, a client that makes holes on purpose, or three quarters of the memory in use)."},
	badFrames: {"bad_frames_total", []string{"reason"},
		"Frames that reached the engine and were thrown away: malformed (neither TCP nor an ICMP error), or with a wrong TCP checksum. A steady growth " +
			"of checksum points to a NIC or to a peer on the same host whose checksums are left to hardware."},
	transmitStalls: {"transmit_stalls_total", nil,
		"Times that output waited because all transmit chunks were in flight. If it grows, the NIC sends slower than the " +
			"services write: normal at line rate, otherwise look for transmit errors."},
	transmitErrors: {"transmit_errors_total", nil,
		"System calls to transmit that failed. Should stay 0; the log at debug level has the error. The interface may be down."},

	queueFrames: {"queue_frames_total", []string{"queue", "direction"},
		"Frames taken from (in) and given to (out) the queue's AF_XDP rings. Very uneven queues: check the NIC's RSS."},
	queueBytes: {"queue_bytes_total", []string{"queue", "direction"},
		"The bytes of xdptcp_queue_frames_total, Ethernet headers included."},
	queueDropped: {"queue_dropped_frames_total", []string{"queue", "reason"},
		"Frames that the kernel dropped on the way into the queue's RX ring: rx_ring_full (the engine is too slow: give it " +
			"a CPU, more queues or larger rings), other (in copy mode: no chunk was free, or the frame is too long)."},
	queueRingEmpty: {"queue_ring_empty_total", []string{"queue", "ring"},
		"Times that the kernel found a ring empty. fill: it had a frame and no chunk for it, which is a loss: larger rings. " +
			"tx: it had sent everything, which is fine."},
	queueInvalid: {"queue_invalid_descriptors_total", []string{"queue", "ring"},
		"Ring entries that the kernel refused. Should stay 0: anything else is a defect in xdptcp, please report it."},
	queueSyscalls: {"queue_syscalls_total", []string{"queue", "call"},
		"System calls of the queue's socket: tx_kick (to send), tx_burst (to send many segments as one frame that the kernel " +
			"cuts), rx_wakeup (to make the driver look at the fill ring), poll (to wait). Per frame they show how well batching works."},
}
