# The master is killed when the first wave of a rolling update begins: the next master brings it to its end.
nodes 3
package web 1.0.0
package web 1.1.0
installed web 1.0.0
when wave: kill the master for 2s
submit web 1.1.0 on all, rolling
until completed
show
