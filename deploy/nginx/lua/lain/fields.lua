-- What a request reads of a proc and its backends lies in one flat array: with a thousand apps it is cold in the processor's caches at every request,
-- and each line of memory touched costs more than anything computed. A proc with one backend and nothing to weigh is that backend's record; any
-- other proc has a record without an ADDRESS.
return {
  COUNTER = 1, -- number of the address's counter of requests in flight
  PROC = 2, -- the proc, with all that is seldom asked for
  ADDRESS = 3, -- false: a proc of which a backend has to be chosen
  PORT = 4,
  APP = 5, -- name of the app
  SLOT = 6, -- where the proc's traffic is counted, as long as EPOCH is the present one
  EPOCH = 7,
  NAME = 8, -- of the proc; false: "web"
  POOL = 9, -- name of the upstream that has the idle connections, where backends are many
  LOAD = 10, -- number of the proc's count of requests in flight
  PEER = 11, -- "address:port"
  COOKIE = 12, -- what a sticky client is given
}
