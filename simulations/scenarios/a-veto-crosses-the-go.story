# Two processes say hello and veto when their nodes are ready and the go is on its way: those nodes stay as they are, and the third goes back.
nodes 3
package web 1.0.0
package web 1.1.0
package watch 1.0.0 needs web: vote veto; hello 6000
installed web 1.0.0, watch 1.0.0
cut-power n2 for 1s
until quiet
wait 1s
slow 300ms for 5s
submit web 1.1.0 on all
until ended
show
