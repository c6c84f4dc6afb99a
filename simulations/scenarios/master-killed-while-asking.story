# The master is killed while processes are being asked: the next one knows who was asked, and goes on.
nodes 3
package web 1.0.0: vote slow
package web 1.1.0
installed web 1.0.0
when asking: kill the master for 2s
submit web 1.1.0 on all
until completed
show
