-- The same request again and again, with one key of a file after the other.
--
-- Arguments: the file; "once" or "round"; method; path; body; then headers, as "Name: value".
-- "{}" in body and headers stands for the key. "once" stops after the last key.

local requests, at, once = {}, 0, false

function init(args)
  local headers = {}
  for i = 6, #args do
    local name, value = args[i]:match("^([^:]+): (.*)$")
    headers[name] = value
  end
  once = args[2] == "once"
  for key in io.lines(args[1]) do
    local filled = {}
    for name, value in pairs(headers) do
      filled[name] = value:gsub("{}", key)
    end
    local body = args[3] ~= "GET" and args[5]:gsub("{}", key) or nil
    -- Made beforehand: while it measures, it only hands them out.
    requests[#requests + 1] = wrk.format(args[3], args[4], filled, body)
  end
end

function request()
  at = at + 1
  if at > #requests then
    at = 1
    if once then wrk.thread:stop() end
  end
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "p50": %.1f, "p99": %.1f}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)
  ))
end
