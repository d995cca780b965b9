// Package redisscript holds the Lua scripts of the Redis store. Each works on one key, so that it runs in a cluster.
//
// A record is text with its header at a fixed place (see record.go of the parent package):
//
//	["i<ID 22><version 9><created 7><idle 7><expires 7><deadline 7><flags 1><marks 6 each>",{...
//
// Lua counts from 1: the version stands at 26 to 34, the idle timeout and the expiry at 42 to 55, the flags at 63, the
// marks from 64 on. The flags of a tombstone are the digit 3 (byte 51), or 4 (byte 52) where the session was renewed.
package redisscript

import "github.com/redis/go-redis/v9"

// MarkLength is the length of the mark that each write leaves in the record.
const MarkLength = 6

// MaxMarks is how many marks a record keeps; the script Save has it as 768 characters.
const MaxMarks = 128

// The answers of the scripts that are not a record.
const (
	Missing = 0 // there is no such key, or it is a tombstone
	Done    = 1 // written, now or by the first run of this very command
	Newer   = 2 // another version is there; nothing was written
)

// whenFull comes before a SET that has failed and is tried again. A server at its maxmemory refuses SET, also of
// something smaller than what is there; but only as the first write of a script, which it cannot stop half-way. PEXPIRE
// is a write that needs no memory, and takes nothing away if the SET fails again.
const whenFull = `redis.call('PEXPIRE', KEYS[1], ARGV[2])`

// Save replaces a record by its next version.
//
//	KEYS[1]  the session
//	ARGV[1]  the record to write
//	ARGV[2]  its lifetime in milliseconds
//	ARGV[3]  the version that must be there, and the mark of this write, the last of those in the record
//	ARGV[4]  given if the marks that are there are to be kept; not if they are too old to matter, or in the record
//
// It answers Done, Missing, or the record that is there instead. A client that lost the reply sends the command again:
// the second run finds its mark, also if others have written since, and answers Done. With ARGV[4] the marks that are
// there stay also if the writer made its record from another copy, which did not have them. A tombstone is never
// replaced: it may have the version of the record whose place it took. A tombstone is also written to a server that is full: see whenFull.
var Save = redis.NewScript(`
local current = redis.call('GET', KEYS[1])
if not current then return 0 end
local flags = current:byte(63)
local expected = current:sub(26, 34) == ARGV[3]:sub(1, 9) and flags ~= 51 and flags ~= 52
local there = ''
if (ARGV[4] or not expected) and current:byte(64) ~= 34 then
  there = current:sub(64, (current:find('"', 64, true) or 64) - 1)
end
if not expected then
  local mark = ARGV[3]:sub(10)
  for i = 1, #there, 6 do
    if there:sub(i, i + 5) == mark then return 1 end
  end
  return current
end
local record = ARGV[1]
if record:sub(64, 63 + #there) ~= there then
  local given = record:sub(64, record:find('"', 64, true) - 1)
  local seen, all = {}, {}
  for i = 1, #given, 6 do seen[given:sub(i, i + 5)] = true end
  for i = 1, #there, 6 do
    local mark = there:sub(i, i + 5)
    if not seen[mark] then all[#all + 1] = mark end
  end
  local joined = (table.concat(all) .. given):sub(-768)
  record = record:sub(1, 63) .. joined .. record:sub(64 + #given)
end
local done = redis.pcall('SET', KEYS[1], record, 'PX', ARGV[2])
if not done.err then return 1 end
flags = record:byte(63)
if flags ~= 51 and flags ~= 52 then return done end
` + whenFull + `
redis.call('SET', KEYS[1], record, 'PX', ARGV[2])
return 1
`)

// Touch renews the expiry of a record, in the record and of the key, and leaves the values as they are. The idle timeout
// goes with the expiry that was made of it: a reader with another timeout finds from both when the session was last used.
//
//	KEYS[1]  the session
//	ARGV[1]  the version that must be there
//	ARGV[2]  the lifetime in milliseconds
//	ARGV[3]  the idle timeout and the new expiry, as in the header
//
// It answers Done, Missing or Newer. The record keeps its length, and is written to a server that is full, too.
var Touch = redis.NewScript(`
local current = redis.call('GET', KEYS[1])
if not current then return 0 end
local flags = current:byte(63)
if flags == 51 or flags == 52 then return 0 end
if current:sub(26, 34) ~= ARGV[1] then return 2 end
local record = current:sub(1, 41) .. ARGV[3] .. current:sub(56)
local done = redis.pcall('SET', KEYS[1], record, 'PX', ARGV[2])
if not done.err then return 1 end
` + whenFull + `
redis.call('SET', KEYS[1], record, 'PX', ARGV[2])
return 1
`)

// Delete deletes a record, whatever its version, but no tombstone. It answers Done, Missing or the tombstone.
//
//	KEYS[1]  the session
var Delete = redis.NewScript(`
local current = redis.call('GET', KEYS[1])
if not current then return 0 end
local flags = current:byte(63)
if flags == 51 or flags == 52 then return current end
return redis.call('DEL', KEYS[1])
`)

// GiveTTL gives a key without a TTL one, in milliseconds, and answers 1; it answers 0 for any other key.
var GiveTTL = redis.NewScript(`
if redis.call('PTTL', KEYS[1]) ~= -1 then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
`)
