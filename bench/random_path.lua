-- GET of one path of many, drawn anew for each request.
-- Arguments: what the target begins with, how many paths, what the target ends with.
-- One of one path is drawn in the same way: wrk costs the same for both.

local before, count, after

function init(arguments)
   before, count, after = arguments[1], tonumber(arguments[2]), arguments[3]
   math.randomseed(os.time())
end

function request()
   local target = before .. string.format("%07d", math.random(0, count - 1)) .. after
   return wrk.format("GET", target)
end
