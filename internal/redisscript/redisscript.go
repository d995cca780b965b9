// Package redisscript holds the Lua scripts of the Redis store. Each works on one key, so that it runs in a cluster.
//
// A record is text with its header at a fixed place (see record.go of the parent package):
//
//	{"id":"<22>","h":"<format 1><version 7><created 7><idle 7><expires 7><deadline 7><flags 1><marks 6 each>",...
//
// Lua counts from 1: the version stands at 38 to 44, the idle timeout and the expiry at 52 to 65, the flags at 73, the
// marks from 74 on.
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
const whenFull = `redis.call('PEXPIRE', KEYS[1], ARGV[3])`

// Save replaces a record by its next version.
//
//	KEYS[1]  the session
//	ARGV[1]  the version that must be there
//	ARGV[2]  the record to write
//	ARGV[3]  its lifetime in milliseconds
//	ARGV[4]  the mark of this write, the last of those in the record
//	ARGV[5]  1 if the marks that are there are to be kept, 0 if they are too old to matter
//
// It answers Done, Missing, or the record that is there instead. A client that lost the reply sends the command again:
// the second run finds its mark, also if others have written since, and answers Done. The marks that are there are kept
// in any case, also if the writer made its record from another copy that did not have them. A tombstone is never
// replaced: it may have the version of the record that it took the place of, if both were written in the same
// millisecond. A tombstone is also written to a server that is full: see whenFull.
var Save = redis.NewScript(`
local current = redis.call('GET', KEYS[1])
if not current then return 0 end
local function marks(record)
  return string.sub(record, 74, (string.find(record, '"', 74, true) or 74) - 1)
end
local there = marks(current)
if string.sub(current, 38, 44) ~= ARGV[1] or string.sub(current, 73, 73) == '3' then
  for i = 1, #there, 6 do
    if string.sub(there, i, i + 5) == ARGV[4] then return 1 end
  end
  return current
end
local record = ARGV[2]
local given = marks(record)
if ARGV[5] == '1' and string.sub(given, 1, #there) ~= there then
  local seen, all = {}, {}
  for i = 1, #given, 6 do seen[string.sub(given, i, i + 5)] = true end
  for i = 1, #there, 6 do
    local mark = string.sub(there, i, i + 5)
    if not seen[mark] then all[#all + 1] = mark end
  end
  local joined = string.sub(table.concat(all) .. given, -768)
  record = string.sub(record, 1, 73) .. joined .. string.sub(record, 74 + #given)
end
local done = redis.pcall('SET', KEYS[1], record, 'PX', ARGV[3])
if not done.err then return 1 end
if string.sub(record, 73, 73) ~= '3' then return done end
` + whenFull + `
redis.call('SET', KEYS[1], record, 'PX', ARGV[3])
return 1
`)

// Touch renews the expiry of a record, in the record and of the key, and leaves the values as they are. The idle timeout
// goes with the expiry that was made of it: a reader with another timeout finds from both when the session was last used.
//
//	KEYS[1]  the session
//	ARGV[1]  the version that must be there
//	ARGV[2]  the idle timeout and the new expiry, as in the header
//	ARGV[3]  the lifetime in milliseconds
//
// It answers Done, Missing or Newer. The record keeps its length, and is written to a server that is full, too.
var Touch = redis.NewScript(`
local current = redis.call('GET', KEYS[1])
if not current or string.sub(current, 73, 73) == '3' then return 0 end
if string.sub(current, 38, 44) ~= ARGV[1] then return 2 end
local record = string.sub(current, 1, 51) .. ARGV[2] .. string.sub(current, 66)
local done = redis.pcall('SET', KEYS[1], record, 'PX', ARGV[3])
if not done.err then return 1 end
` + whenFull + `
redis.call('SET', KEYS[1], record, 'PX', ARGV[3])
return 1
`)

// GiveTTL gives a key without a TTL one, in milliseconds, and answers 1; it answers 0 for any other key.
var GiveTTL = redis.NewScript(`
if redis.call('PTTL', KEYS[1]) ~= -1 then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
`)
