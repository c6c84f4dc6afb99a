# A node is off while two of the three voters that it knows are taken out of the cluster: the nodes that are left name it the master.
nodes 7
members n5 n6 n7
package web 1.0.0
package web 1.1.0
installed web 1.0.0
cut-power n7 for 60s
wait 1s
remove n1
wait 10s
remove n2
wait 120s
until quiet
submit web 1.1.0 on n3 n4 n5 n6 n7
until ended
show
