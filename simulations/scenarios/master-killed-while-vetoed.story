# The master is killed when a process has vetoed: the veto stands until somebody decides.
nodes 3
package web 1.0.0: vote veto
package web 1.1.0
installed web 1.0.0
when vetoed: kill the master for 2s
submit web 1.1.0 on all
until vetoed
wait 5s
decide force
until completed
show
