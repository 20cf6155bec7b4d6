-- Keep a document, unless a later one is held.
--
-- KEYS[1]  the document
-- ARGV[1]  version + revision of the document (integer; both only ever rise)
-- ARGV[2]  the document as JSON: {"version": ..., "revision": ..., "content": ...}
-- ARGV[3]  time to live (milliseconds, > 0)
--
-- Returns 1 if it was kept, 0 if a later one is held.
--
-- One script, not read-compare-write: of two who have read the database at different times, the one
-- who read first may write last. What is held and cannot be read counts for nothing.

local held = redis.pcall('GET', KEYS[1])
if type(held) == 'string' then
  local readable, document = pcall(cjson.decode, held)
  if readable and type(document) == 'table' then
    local version, revision = tonumber(document.version), tonumber(document.revision)
    if version and revision and version + revision > tonumber(ARGV[1]) then
      return 0
    end
  end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
