# One node is back, the other just now: that its update is over, and what it leaves as a tombstone, is on its way to the voters when somebody wants
# the same of the first. The plan that was made for that is made again, and what was taken back does not come back.
nodes 3
package web 1.0.0: ready late
package web 1.1.0
installed web 1.0.0
submit web 1.1.0 on all, rolling
until wave 3
when regressing: kill n2 for 3s
slow 400ms for 30s
cancel
wait 3780ms
refused web 1.1.0 on n3
show
