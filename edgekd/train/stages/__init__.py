"""Further runs that a student's recipe trains in the student's run folder: teachers, specialists, systems, and the
support vector machines on their embeddings. How a single run is trained is `edgekd.train.loop`.
"""
