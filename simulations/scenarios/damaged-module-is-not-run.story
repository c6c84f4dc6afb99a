# A bit is turned in the module that runs on n2, and its process crashes: other bytes are never run, and the node fetches them again.
nodes 3
package web 1.0.0: health faints
installed web 1.0.0
turn-a-bit n2
wait 15s
show
