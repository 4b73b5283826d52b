//go:build race

package bpf

const raceDetector = false
