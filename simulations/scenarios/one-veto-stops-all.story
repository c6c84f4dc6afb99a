# One process on one node vetoes: nothing changes anywhere, until a user says otherwise.
nodes 4
members n4
package web 1.0.0
package web 1.1.0
package calls 1.0.0 needs web: vote veto
installed web 1.0.0
submit calls 1.0.0 on n3
until completed
submit web 1.1.0 on all
until vetoed
wait 5s
show
decide only n1 n2
until completed
show
