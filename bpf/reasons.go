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
}

// ReasonLabels are a reason's verdict ("pass", "tx", "redirect", "drop") and its name in lower
// case ("bad_cookie"): the labels of the metric and the words of the status command.
func ReasonLabels(r Reason) (verdict, name string) {
	verdict, name, _ = strings.Cut(strings.ToLower(reasonNames[r]), "_")
	return verdict, name
}
