-- PUT of a new path with each request.
-- Arguments: what the target begins with (a number is added), the file of the body.

local before, body
local number = 0

function init(arguments)
   before = arguments[1]
   local file = io.open(arguments[2], "rb")
   body = file:read("*a")
   file:close()
end

function request()
   number = number + 1
   return wrk.format("PUT", before .. number, nil, body)
end
