// Package sessions keeps HTTP sessions that survive replicas, proxies and a change of store.
package sessions
