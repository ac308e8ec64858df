"""How often: experiments made of several Trainers, each child a folder."""
