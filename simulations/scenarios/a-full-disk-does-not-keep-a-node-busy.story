# A node cannot write down that one update is told of, since its disk is full, when the time to answer the next is over. It tries again in a while,
# and goes on when there is room.
nodes 3
package web 1.0.0: vote slow
package web 1.1.0
package talk 1.0.0 needs web: vote silent
installed web 1.0.0, talk 1.0.0
submit web 1.1.0 on n2
wait 200ms
cancel
submit web 1.1.0 on n2
wait 500ms
fill-disk n2 for 8s
until vetoed
wait 10s
decide force
until ended
show
