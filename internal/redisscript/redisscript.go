// Package redisscript contains the Lua scripts of the Redis store. Each uses one key, so that it runs in a cluster.
//
// A record is text with its header at fixed offsets (see record.go of the root package):
//
//	["i<ID 22><version 9><created 7><idle 7><expires 7><deadline 7><flags 1><marks 6 each>",{...
//
// Lua counts from 1: the version is at 26 to 34, the idle timeout and the expiry at 42 to 55, the flags at 63, and the
// marks from 64 on. The flags of a tombstone are the digit 3 (byte 51), or 4 (byte 52) if the session was renewed.
package redisscript

import "github.com/redis/go-redis/v9"

// MarkLength is the length of the mark that each write leaves in the record.
const MarkLength = 6

// MaxMarks is how many marks a record keeps; in the script Save, it is written as 768 characters.
const MaxMarks = 128

// The replies of the scripts, unless the reply is a record.
const (
	Missing = 0 // there is no such key, or it is a tombstone
	Done    = 1 // written, now or by an earlier run of the same command
	Newer   = 2 // the key has another version; nothing was written
)

// whenFull runs before a failed SET is tried again. A server at its maxmemory rejects a SET, even one that makes the
// value smaller, but only if it is the first write of a script, which the server cannot stop half-way. PEXPIRE is a
// write that needs no memory, and does no harm if the SET fails again.
const whenFull = `redis.call('PEXPIRE', KEYS[1], ARGV[2])`

// Save replaces a record with its next version.
//
//	KEYS[1]  the session
//	ARGV[1]  the record to write
//	ARGV[2]  its lifetime in milliseconds
//	ARGV[3]  the version that the key must have, and the mark of this write, which is the last mark in the record
//	ARGV[4]  present if the stored marks must be kept; absent if they are too old to matter, or in the record
//
// It returns Done, Missing, or the record that the key has instead. A client that lost the reply sends the command
// again: the second run finds its mark, even if other clients have written since, and returns Done. With ARGV[4], the
// stored marks are kept even if the writer made its record from another copy, which did not have them. A tombstone is
// never replaced, because it may have the version of the record that it replaced. A tombstone can be written to a full
// server: see whenFull.
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

// Touch extends the expiry of a record, in the record and of the key, and does not change the values. It also sets the
// idle timeout from which the expiry was computed: a reader with another timeout needs both to find when the session
// was last used. If that shortens the idle timeout, a flag says so: it is 32, added to the digit of the others. A record
// with this flag may be kept after it has expired: then it is not extended.
//
//	KEYS[1]  the session
//	ARGV[1]  the version that the key must have
//	ARGV[2]  the lifetime in milliseconds
//	ARGV[3]  the idle timeout, the new expiry and the present time, as in the header
//
// It returns Done, Missing or Newer. The record keeps its length, and can be written to a full server.
var Touch = redis.NewScript(`
local function less(a, b) -- not a < b, which follows the locale of the server
  for i = 1, #a do
    if a:byte(i) ~= b:byte(i) then return a:byte(i) < b:byte(i) end
  end
  return false
end
local current = redis.call('GET', KEYS[1])
if not current then return 0 end
local flags = current:byte(63)
if flags == 51 or flags == 52 then return 0 end
if current:sub(26, 34) ~= ARGV[1] then return 2 end
local digit = current:sub(63, 63)
if ('VWXYZ_abcdef'):find(digit, 1, true) and not less(ARGV[3]:sub(15), current:sub(49, 55)) then return 0 end
if less(ARGV[3]:sub(1, 7), current:sub(42, 48)) then
  local at = ('-0123456789A'):find(digit, 1, true)
  if at then digit = ('VWXYZ_abcdef'):sub(at, at) end
end
local record = current:sub(1, 41) .. ARGV[3]:sub(1, 14) .. current:sub(56, 62) .. digit .. current:sub(64)
local done = redis.pcall('SET', KEYS[1], record, 'PX', ARGV[2])
if not done.err then return 1 end
` + whenFull + `
redis.call('SET', KEYS[1], record, 'PX', ARGV[2])
return 1
`)

// Delete deletes a record, whatever its version, but not a tombstone. It returns Done, Missing or the tombstone.
//
//	KEYS[1]  the session
var Delete = redis.NewScript(`
local current = redis.call('GET', KEYS[1])
if not current then return 0 end
local flags = current:byte(63)
if flags == 51 or flags == 52 then return current end
return redis.call('DEL', KEYS[1])
`)

// GiveTTL gives a TTL, in milliseconds, to a key without one, and returns 1; for any other key it returns 0.
var GiveTTL = redis.NewScript(`
if redis.call('PTTL', KEYS[1]) ~= -1 then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
`)
