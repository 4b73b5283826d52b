// SPDX-License-Identifier: Apache-2.0

package bpf

import "strings"

// Reason says why a packet got its verdict: the index into the counters map. The numbers are stable.
type Reason = objectReason

// Reasons, by name. The comments are in types.h.
const (
	PassNotTCP       = objectReasonPASS_NOT_TCP
	PassNoService    = objectReasonPASS_NO_SERVICE
	PassNotLocal     = objectReasonPASS_NOT_LOCAL
	PassOtherHost    = objectReasonPASS_OTHER_HOST
	PassFragment     = objectReasonPASS_FRAGMENT
	PassIPOptions    = objectReasonPASS_IP_OPTIONS
	PassBadIP        = objectReasonPASS_BAD_IP
	PassNoSocket     = objectReasonPASS_NO_SOCKET
	TxSynAck         = objectReasonTX_SYNACK
	RedirectOpened   = objectReasonREDIRECT_OPENED
	RedirectSegment  = objectReasonREDIRECT_SEGMENT
	RedirectSyn      = objectReasonREDIRECT_SYN
	DropBadTCP       = objectReasonDROP_BAD_TCP
	DropBadFlags     = objectReasonDROP_BAD_FLAGS
	DropBadSource    = objectReasonDROP_BAD_SOURCE
	DropBadChecksum  = objectReasonDROP_BAD_CHECKSUM
	DropBadCookie    = objectReasonDROP_BAD_COOKIE
	DropBadTimestamp = objectReasonDROP_BAD_TIMESTAMP
	DropExpiredKey   = objectReasonDROP_EXPIRED_KEY
	DropNoFlow       = objectReasonDROP_NO_FLOW
	DropTableFull    = objectReasonDROP_TABLE_FULL
	DropNoRoom       = objectReasonDROP_NO_ROOM
	PassNoLease      = objectReasonPASS_NO_LEASE
	PassDisarmed     = objectReasonPASS_DISARMED
	PassPeace        = objectReasonPASS_PEACE
	PassKernelFlow   = objectReasonPASS_KERNEL_FLOW
	PassHandedOver   = objectReasonPASS_HANDED_OVER
	RedirectICMP     = objectReasonREDIRECT_ICMP
	RedirectSynAck   = objectReasonREDIRECT_SYNACK
	TxReset          = objectReasonTX_RESET
	DropLand         = objectReasonDROP_LAND
	DropDenied       = objectReasonDROP_DENIED
	DropReplyCap     = objectReasonDROP_REPLY_CAP
	DropRateLimited  = objectReasonDROP_RATE_LIMITED
	DropNoRoute      = objectReasonDROP_NO_ROUTE
	DropNoSocket     = objectReasonDROP_NO_SOCKET
	PassNoListener   = objectReasonPASS_NO_LISTENER
	PassNotAssigned  = objectReasonPASS_NOT_ASSIGNED
	PassTwoTags      = objectReasonPASS_TWO_TAGS

	// ReasonCount is how many there are.
	ReasonCount = int(objectReasonREASON_COUNT)
)

// reasonNames are the names of types.h, by number.
var reasonNames = [ReasonCount]string{
	PassNotTCP: "PASS_NOT_TCP", PassNoService: "PASS_NO_SERVICE", PassNotLocal: "PASS_NOT_LOCAL",
	PassOtherHost: "PASS_OTHER_HOST", PassFragment: "PASS_FRAGMENT", PassIPOptions: "PASS_IP_OPTIONS",
	PassBadIP: "PASS_BAD_IP", PassNoSocket: "PASS_NO_SOCKET",
	TxSynAck:       "TX_SYNACK",
	RedirectOpened: "REDIRECT_OPENED", RedirectSegment: "REDIRECT_SEGMENT", RedirectSyn: "REDIRECT_SYN",
	DropBadTCP: "DROP_BAD_TCP", DropBadFlags: "DROP_BAD_FLAGS", DropBadSource: "DROP_BAD_SOURCE",
	DropBadChecksum: "DROP_BAD_CHECKSUM", DropBadCookie: "DROP_BAD_COOKIE",
	DropBadTimestamp: "DROP_BAD_TIMESTAMP", DropExpiredKey: "DROP_EXPIRED_KEY",
	DropNoFlow: "DROP_NO_FLOW", DropTableFull: "DROP_TABLE_FULL", DropNoRoom: "DROP_NO_ROOM",
	PassNoLease:     "PASS_NO_LEASE",
	PassDisarmed:    "PASS_DISARMED",
	PassPeace:       "PASS_PEACE",
	PassKernelFlow:  "PASS_KERNEL_FLOW",
	PassHandedOver:  "PASS_HANDED_OVER",
	RedirectICMP:    "REDIRECT_ICMP",
	RedirectSynAck:  "REDIRECT_SYNACK",
	TxReset:         "TX_RESET",
	DropLand:        "DROP_LAND",
	DropDenied:      "DROP_DENIED",
	DropReplyCap:    "DROP_REPLY_CAP",
	DropRateLimited: "DROP_RATE_LIMITED",
	DropNoRoute:     "DROP_NO_ROUTE",
	DropNoSocket:    "DROP_NO_SOCKET",
	PassNoListener:  "PASS_NO_LISTENER",
	PassNotAssigned: "PASS_NOT_ASSIGNED",
	PassTwoTags:     "PASS_TWO_TAGS",
}

// ReasonLabels are a reason's verdict ("pass", "tx", "redirect", "drop") and its name in lower
// case ("bad_cookie"): the labels of the metric and the words of the status command.
func ReasonLabels(r Reason) (verdict, name string) {
	verdict, name, _ = strings.Cut(strings.ToLower(reasonNames[r]), "_")
	return verdict, name
}
